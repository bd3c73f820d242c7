"""config.json of an autoencoder: what is taken, and what is said of the rest."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fluxflow_exp.config import autoencoder
from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.errors import UserError
from fluxflow_exp.preflight import check, parts
from tests.helpers.autoencoders import DC, KL, save, toy

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
        ([], {}, "there are no weights: no diffusion_pytorch_model.safetensors in it"),
        (["diffusion_pytorch_model.bin"], {}, "diffusion_pytorch_model.bin is a pickle, which is not opened"),
        (["model_index.json"], {}, "is a whole pipeline: its autoencoder is probably in"),
        (HERE, {"_class_name": "AutoencoderTiny"}, "_class_name is 'AutoencoderTiny'"),
        (HERE, {"in_channels": 4}, "its in_channels is 4"),
        (HERE, {"latent_channels": None}, "does not say its latent_channels"),
        (HERE, {"up_block_types": ["UpDecoderBlock2D"]}, "differ in length"),
    ],
)  # fmt: skip
def test_what_is_not_taken_is_said_and_of_another_kind_what_is(
    tmp_path: Path, files: list[str], changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as error:
        autoencoder.chosen(folder(tmp_path, *files, **changed), None)
    assert said in str(error.value)
    other_kind = "_class_name" in changed or "in_channels" in changed
    assert (autoencoder.SUPPORTED in str(error.value)) == other_kind


def test_places_where_nothing_can_be_read_are_named(tmp_path: Path) -> None:
    file = folder(tmp_path / "vae") / "config.json"
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{")
    for path, config, said in (
        (None, None, r"^model/autoencoder=diffusers: give model.autoencoder.path=FOLDER, or model.autoencoder.config"),
        (file.parent, file, "model.autoencoder.config are both given: leave one"),
        (file, None, "is a file"),
        (tmp_path / "nowhere", None, r"^model.autoencoder.path=\S+nowhere: there is no such folder$"),
        (tmp_path / "empty", None, "cannot be read"),
        (None, tmp_path / "broken.json", "it is no JSON"),
    ):
        with pytest.raises(UserError, match=said):
            autoencoder.chosen(path, config)


def test_headers_give_the_shapes_of_one_file_or_several_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    one, *several = (f"diffusion_pytorch_model{part}.safetensors" for part in ("", "-1", "-2"))
    for name, shape in zip((one, *several), ((2, 3), (4,), (5, 1)), strict=True):
        save_file({name: torch.zeros(shape)}, tmp_path / name)
    assert autoencoder.stored(tmp_path) == (tmp_path / one, {one: (2, 3)})
    index = tmp_path / f"{one}.index.json"
    index.write_text(json.dumps({"weight_map": {name: name for name in several}}))
    assert autoencoder.stored(tmp_path) == (index, {several[0]: (4,), several[1]: (5, 1)})
    (tmp_path / several[1]).write_bytes((tmp_path / several[1]).read_bytes()[:-4])
    with pytest.raises(UserError, match=f"{several[1]} cannot be read .*: copy or download it again"):
        autoencoder.stored(tmp_path)
    for broken in ("{", "[]", '{"weight_map": 1}', '{"weight_map": {"a": "gone"}}'):
        index.write_text(broken)
        with pytest.raises(UserError, match=r"(index\.json|gone) cannot be read"):
            autoencoder.stored(tmp_path)


@pytest.mark.parametrize("stage", ["vae_gan", "flow"])
def test_channels_beside_an_autoencoder_that_has_others_are_refused(tmp_path: Path, stage: str) -> None:
    save(tmp_path / "vae")
    words = [f"model.autoencoder.path={tmp_path / 'vae'}", "model.vae_dim=16"]
    said = ["model.vae_dim=16: the autoencoder has 4 latent channels: leave it out"]
    values = toy(tmp_path, stage, *words)
    assert parts.problems(values) == said
    # Nothing takes them in an autoencoder's run; where one was begun with them, it can be looked at.
    assert check.problems(values, begun=True) == ([] if stage == "vae_gan" else said)
    assert parts.problems(toy(tmp_path, stage, *words[:1])) == []


def test_a_key_beside_the_folder_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "vae")
    with pytest.raises(UserError, match=r"model.autoencoder.vae_dim: there is no such key; it has path and config"):
        toy(tmp_path, "vae_gan", f"model.autoencoder.path={tmp_path / 'vae'}", "+model.autoencoder.vae_dim=16")


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
    assert values["flow_processor"]["long_skips"]
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
