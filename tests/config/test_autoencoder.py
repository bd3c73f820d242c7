"""config.json of an autoencoder: what is taken, and what is said of the rest."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp.config import autoencoder
from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.errors import UserError
from tests.helpers.autoencoders import DC, KL

HERE = ["diffusion_pytorch_model.safetensors"]
SAVED = {"_class_name": "AutoencoderKL", "_diffusers_version": "0.1", **KL}


def folder(path: Path, *files: str, **changed: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({**SAVED, **changed}))
    for name in files:
        (path / name).touch()
    return path


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("diffusion_pytorch_model.safetensors", None),
        ("diffusion_pytorch_model.safetensors.index.json", None),
        ("diffusion_pytorch_model.fp16.safetensors", "fp16"),
        ("diffusion_pytorch_model.safetensors.index.bf16.json", "bf16"),
    ],
)
def test_a_saved_folder_is_taken(tmp_path: Path, name: str, word: str | None) -> None:
    assert autoencoder.chosen(folder(tmp_path, name), None) == {"_class_name": "AutoencoderKL", **KL}
    assert autoencoder.variant(tmp_path) == word


@pytest.mark.parametrize(
    ("files", "changed", "said"),
    [
        ([], {}, "there are no weights (no diffusion_pytorch_model.safetensors in it)"),
        (["diffusion_pytorch_model.bin"], {}, "diffusion_pytorch_model.bin is a pickle, which is not opened"),
        (["model_index.json"], {}, "is a whole pipeline: its autoencoder is probably in"),
        (HERE, {"_class_name": "AutoencoderTiny"}, "_class_name is 'AutoencoderTiny'"),
        (HERE, {"in_channels": 4}, "its in_channels is 4"),
        (HERE, {"latent_channels": None}, "does not say its latent_channels"),
        (HERE, {"up_block_types": ["UpDecoderBlock2D"]}, "differ in length"),
    ],
)  # fmt: skip
def test_what_is_not_taken_is_said_once_with_what_is(
    tmp_path: Path, files: list[str], changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as error:
        autoencoder.chosen(folder(tmp_path, *files, **changed), None)
    assert said in str(error.value)
    assert str(error.value).endswith(autoencoder.SUPPORTED)


def test_places_where_nothing_can_be_read_are_named(tmp_path: Path) -> None:
    file = folder(tmp_path / "vae") / "config.json"
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{")
    for path, config, said in (
        (None, None, "give one of the two"),
        (file.parent, file, "one alone is taken"),
        (file, None, "is a file"),
        (tmp_path / "nowhere", None, "there is no such folder"),
        (tmp_path / "empty", None, "cannot be read"),
        (None, tmp_path / "broken.json", "it is no JSON"),
    ):
        with pytest.raises(UserError, match=said):
            autoencoder.chosen(path, config)


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoencoder, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'fluxflow-exp\[diffusers\]'"):
        autoencoder.chosen(None, folder(tmp_path) / "config.json")


def test_its_channels_are_the_flows_and_nothing_of_the_models_own_autoencoder_is_left(tmp_path: Path) -> None:
    file = folder(tmp_path, latent_channels=7) / "config.json"
    for model in ("compact", "compact_f8", "fluxflow", "tiny"):
        words = [f"model={model}", "model/autoencoder=diffusers", f"model.autoencoder.config={file}"]
        values = resolve(compose_config(words))["model"]
        assert values["vae_dim"] == values["flow_processor"]["vae_dim"] == 7
        assert "autoencoder" not in values
        assert set(values["compressor"]) == {"_target_", "config", "weights_path"}
        assert values["expander"]["config"] == {"_class_name": "AutoencoderKL", **KL, "latent_channels": 7}


def test_an_autoencoder_goes_with_another_models_flow() -> None:
    values = resolve(compose_config(["model=compact_f8", "model/autoencoder=tiny"]))["model"]
    assert values["compressor"]["widths"] == [16, 32, 64]
    assert values["flow_processor"]["patch_size"] == 2
    assert values["flow_processor"]["vae_dim"] == 16


def test_a_part_of_ones_own_may_have_the_same_keys() -> None:
    own = {"_target_": "my_model.Compressor", "config": "some.yaml", "weights_path": "some", "vae_dim": 4}
    assert autoencoder.without_folder(own) == own
    assert not autoencoder.begins_trained(own)
    assert not autoencoder.deterministic({**own, "config": {"_class_name": "AutoencoderDC"}})
    half = {**own, "_target_": "fluxflow_exp.models.diffusers_vae.Compressor"}
    assert "weights_path" not in autoencoder.without_folder(half)
    assert autoencoder.begins_trained(half)
    assert autoencoder.deterministic({**half, "config": {"_class_name": "AutoencoderDC"}})


@pytest.mark.parametrize(("kind", "small"), [("AutoencoderKL", KL), ("AutoencoderDC", DC)])
def test_a_narrowed_one_has_the_same_stages(kind: str, small: dict[str, Any]) -> None:
    config = {"_class_name": kind, **small, "latent_channels": 12}
    found = autoencoder.narrowed(config, 16)
    assert found["latent_channels"] == 12
    assert autoencoder.problem(found) is None
    assert autoencoder.downscale(found, 0) == autoencoder.downscale(config, 0) == 2
    assert autoencoder.narrowed({**config, "latent_channels": 128}, 16)["latent_channels"] == 16


def test_the_configuration_of_the_how_to_is_one_of_f8() -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "pretrained-autoencoder.md"
    (text,) = re.findall(r"```json\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    config = json.loads(text)
    assert autoencoder.problem(config) is None
    assert (autoencoder.downscale(config, 0), autoencoder.downscale(config, 1)) == (8, 8)
