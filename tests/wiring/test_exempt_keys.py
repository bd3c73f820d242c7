"""Keys that change no update: all of them exist, and each is read somewhere."""

import ast
import dataclasses
import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_type_hints

import fluxflow_exp
from fluxflow_exp.config import schema
from fluxflow_exp.config.compose import conf_dir, resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.run.identity import flatten
from fluxflow_exp.wiring import exempt_keys
from tests.helpers.autoencoders import KL

PACKAGE = Path(fluxflow_exp.__file__).parent
LPIPS = "+loss@stage.steps.vae_gan.trainer.perceptual=lpips"
CACHE = ["+data.cache_gib=1", "+data.cache_folder=x"]
CHOICES = [
    ["stage=full", "optimizer=muon", LPIPS, "data=webdataset", "data.urls=x", "minutes=5"],
    ["stage=vae", "data=multi", "+data@data.datasets.mine=image_folder", "data.datasets.mine.data_path=x"],
]
CHOICES[0] += CACHE
CHOICES[1] += ["data.datasets.mine.captions_file=x", "stage.steps.vae.minutes=5"]


def test_every_listed_key_exists(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"_class_name": "AutoencoderKL", **KL}))
    theirs = ["stage=vae", "model/autoencoder=diffusers", f"model.autoencoder.config={config}"]
    keys = {
        key
        for overrides in [*CHOICES, theirs]
        for section, node in resolve(compose_config(overrides)).items()
        for key, _ in flatten(node, section)
    }
    unknown = [p for p in (*exempt_keys.INERT, *exempt_keys.SELDOM) if not any(fnmatchcase(key, p) for key in keys)]
    assert unknown == []


def test_losses_optimizers_and_models_are_not_listed() -> None:
    for key in ("seed", "stage.steps.vae.trainer.kl.weight", "stage.steps.vae.ema.decay", "model.expander.widths"):
        assert exempt_keys.reason(key) is None


def frame(kind: Any) -> set[str]:
    """The names of a frame's keys, at any depth."""
    found = set()
    for field in dataclasses.fields(kind):
        found.add(field.name)
        for inner in (get_type_hints(kind)[field.name], *getattr(get_type_hints(kind)[field.name], "__args__", ())):
            if dataclasses.is_dataclass(inner):
                found |= frame(inner)
    return found


def test_every_key_of_the_frame_is_read_by_the_package() -> None:
    read: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name in ("schema.py", "exempt_keys.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.add(node.value)
    launchers = "".join(p.read_text() for p in (Path(conf_dir()) / "hydra" / "launcher").glob("*.yaml"))
    unread = {name for name in frame(schema.RunConfig) if name not in read and f".{name}}}" not in launchers}
    assert unread == set()
