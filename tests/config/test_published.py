"""What may be built: the classes that the package publishes and those that the user names, whatever a file says."""

import importlib
import json
import pkgutil
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

import fluxflow_exp.models
from fluxflow_exp.config import published
from fluxflow_exp.config.compose import conf_dir, instantiate, resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.generate.command import parser
from fluxflow_exp.generate.drawing import generate
from fluxflow_exp.models import weights
from fluxflow_exp.models.text_to_image import TextToImage
from fluxflow_exp.preflight import targets

EVERY = frozenset(name for names in published.PUBLISHED.values() for name in names)
FETCH = {
    "_target_": "fluxflow_exp.models.flow.torch.hub.load_state_dict_from_url",
    "url": "http://127.0.0.1:9/x.pt",
    "weights_only": False,
}
FLOW = {"_target_": "fluxflow_exp.models.flow.FlowProcessor", "vae_dim": 4, "text_dim": 8, "width": 16, "depth": 1}


def test_the_table_is_what_the_configuration_files_name() -> None:
    shipped = {
        node["_target_"]
        for path in Path(conf_dir()).rglob("*.yaml")
        for _, node in published.nodes(yaml.safe_load(path.read_text(encoding="utf-8")))
    }
    assert {name for name in shipped if not name.startswith("hydra_plugins.")} == EVERY
    for name in EVERY - published.PUBLISHED["optimizer"]:
        found = published.locate(name)
        assert f"{found.__module__}.{found.__qualname__}" == name


def attributes(modules: list[ModuleType], depth: int) -> Iterator[str]:
    """Dotted names of what is reached from modules through attributes; what is reached twice is looked into once."""
    seen: set[int] = set()
    waiting: deque[tuple[str, Any, int]] = deque((module.__name__, module, depth) for module in modules)
    while waiting:
        path, value, left = waiting.popleft()
        yield path
        if left and id(value) not in seen and isinstance(value, ModuleType | type):
            seen.add(id(value))
            waiting.extend((f"{path}.{name}", child, left - 1) for name, child in list(vars(value).items()))


def test_nothing_else_is_reached_through_a_module_of_models() -> None:
    found = [each.name for each in pkgutil.iter_modules(fluxflow_exp.models.__path__, "fluxflow_exp.models.")]
    modules = [importlib.import_module(name) for name in found if not name.endswith("_triton")]
    others = [name for name in attributes(modules, depth=3) if name not in EVERY]
    assert len(others) > 10_000
    assert any(name.endswith(".torch.hub.load_state_dict_from_url") for name in others)
    for name in others:
        with pytest.raises(ValueError, match="none of this package's"):
            instantiate({"_target_": name})


def publish(path: Path, node: Any, **changed: Any) -> Path:
    """A file that holds a flow_processor of one tensor, and the facts of another one."""
    facts = {
        "index": 1, "kind": "ema", "model": {"flow_processor": node}, "trained": {"flow_processor": "flow"},
        "text_encoder": "embed", "img_size": 16, "downscale": 4, "flow": None,
    }  # fmt: skip
    weights.publish(path, {"flow_processor": {"latent_mean": torch.zeros(4)}}, {**facts, **changed})
    return path


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (FETCH, "refusing to build flow_processor from 'fluxflow_exp.models.flow.torch.hub.load_state"),
        ({**FLOW, "_target_": "os.system"}, "refusing to build flow_processor from 'os.system'"),
        ({**FLOW, "_target_": "fluxflow_exp.losses.kl.KL"}, "refusing to build flow_processor from"),
        ({**FLOW, "_target_": ["os.system"]}, "refusing to build flow_processor from"),
        ({**FLOW, "heads": FETCH}, "refusing to build flow_processor from 'fluxflow_exp.models.flow.torch.hub"),
        ({**FLOW, "heads": [{"x": FETCH}]}, "refusing to build flow_processor from 'fluxflow_exp.models.flow.torch"),
        ({**FLOW, "_args_": ["echo harm"]}, "takes no '_args_'"),
        ({**FLOW, "_partial_": True}, "_partial_: a part is built whole"),
        ({**FLOW, "heads": "many"}, "heads='many'"),
        ({**FLOW, "heads": 2, "depth": 10**9}, "it would have more tensors than are there"),
        ({**FLOW, "heads": 2, "width": 2**20}, "is not what its metadata says: "),
        ({**FLOW, "heads": 3}, "builds no flow_processor"),
        ("a part", "model.flow_processor: input should be a valid dictionary"),
    ],
)
def test_metadata_builds_models_of_the_tensors_beside_it_alone(tmp_path: Path, node: Any, message: str) -> None:
    path = publish(tmp_path / "flow.safetensors", node)
    with pytest.raises(ValueError, match=re.escape(message)):
        weights.load_part(path, "flow_processor", kind="ema")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": 2}, "weights format 2"),
        ({"trained": {"flow_processor": "../../elsewhere"}}, "trained.flow_processor: string should match"),
        ({"trained": None}, "trained: input should be"),
        ({"downscale": float("nan")}, "downscale: input should be"),
        ({"flow": {"objective": "x", "shift": 1.0, "cfg_dropout_prob": 0.1}}, "flow.objective: input should be"),
    ],
)
def test_facts_of_the_wrong_kind_are_one_clear_error(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        weights.read_facts(publish(tmp_path / "flow.safetensors", FLOW, **changed))


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", "[" * 100_000, '{"format": 1}'])
def test_metadata_that_holds_no_facts_is_one_clear_error(tmp_path: Path, text: str) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "f.safetensors", {weights.KEY: text})
    with pytest.raises(ValueError, match="its metadata"):
        weights.read_facts(tmp_path / "f.safetensors")


class Own(torch.nn.Module):
    """A user's own model."""

    def __init__(self, *, size: int) -> None:
        super().__init__()
        self.register_buffer("latent_mean", torch.zeros(size))


def test_a_class_of_the_users_own_is_built_where_the_user_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "_own", set())
    name = f"{__name__}.Own"
    path = publish(tmp_path / "flow.safetensors", {"_target_": name, "size": 4})
    with pytest.raises(ValueError, match=re.escape(f"add --trust {name}")):
        weights.load_part(path, "flow_processor", kind="ema")
    command = ["--model_checkpoint", str(path), "--text_prompts_path", "none", "--output_path", "none"]
    with pytest.raises(ValueError, match="no file or folder none"):
        generate(parser().parse_args([*command, "--trust", name]))
    assert weights.load_part(path, "flow_processor", kind="ema").latent_mean.shape == (4,)


def test_all_that_generation_needs_to_be_trusted_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "_own", set())
    path = publish(tmp_path / "flow.safetensors", {"_target_": "a.B", "inner": {"_target_": "c.D"}})
    with pytest.raises(
        ValueError, match=r"build or fetch a.B, c.D, .* add --trust a.B --trust c.D \(in Python: trust="
    ):
        TextToImage.load(path)
    published.allow(["a.B", "c.D"])
    with pytest.raises(
        ValueError, match=r"cannot find 'a.B' \(No module named 'a'\). Modules are looked for"
    ) as raised:
        weights.load_part(path, "flow_processor", kind="ema")
    assert "--trust" not in str(raised.value)
    monkeypatch.setattr(published, "_own", set())
    with pytest.raises(ValueError, match="holds no expander"):
        TextToImage.load(path, trust=["a.B", "c.D"])
    assert published.is_own("a.B")


class Outer(torch.nn.Module):
    """A user's own model, of another one."""

    def __init__(self, *, inner: torch.nn.Module) -> None:
        super().__init__()
        self.register_buffer("latent_mean", torch.zeros(4))


def test_within_an_own_model_stands_what_is_known_or_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "_own", {f"{__name__}.Outer"})
    encoder = {"_target_": published.ENCODER, "name": "a/b"}
    for inner, word in (({"_target_": f"{__name__}.Own", "size": 4}, f"{__name__}.Own"), (encoder, "a/b")):
        path = publish(tmp_path / "flow.safetensors", {"_target_": f"{__name__}.Outer", "inner": inner})
        with pytest.raises(ValueError, match=re.escape(f"add --trust {word}")):
            weights.node_of(path, "flow_processor", weights.read_facts(path))
        published.allow([word])
        assert weights.node_of(path, "flow_processor", weights.read_facts(path))["inner"] == inner


class Unlike:
    """A loss of the user's own that inherits from none."""


class Like:
    """One that has what is called of the package's."""

    def beta(self, update: int) -> float:
        return 1.0


def test_an_own_loss_need_not_inherit_but_has_what_is_called_and_a_published_one_must_be_of_the_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(published, "_own", {f"{__name__}.{name}" for name in ("Like", "Unlike")})
    trainer = "fluxflow_exp.trainers.autoencoder.AutoencoderTrainer"
    for name, wrong in (
        (f"{__name__}.Like", False),
        (f"{__name__}.Unlike", True),
        ("fluxflow_exp.losses.lecam.LeCam", True),
    ):
        found = targets.problems({"_target_": trainer, "kl": {"_target_": name}}, "trainer.")
        assert any("trainer.kl takes a KL" in line for line in found) == wrong
        assert any("has no beta: what is not one stands under a key" in line for line in found) == ("Unlike" in name)


def test_a_class_of_the_users_own_is_built_where_the_command_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "_own", set())
    place = "stage.steps.vae.trainer.kl._target_=tests.config.test_published.Own"
    config = compose_config(["stage=vae", "hardware=cpu", place])
    node = {"_target_": "tests.config.test_published.Own", "size": 3}
    resolve(config, own=False)
    assert "not named on this command line" in targets.problems(node, "kl.")[0]
    resolve(config)
    assert targets.problems(node, "kl.") == []
    assert instantiate(node).latent_mean.shape == (3,)
    assert json.dumps(node)
