"""`init_from` and model=published: the model's keys come from the file, and nothing else does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.errors import UserError

BYTES = "fluxflow_exp.models.text_encoder.ByteTextEncoder"


def values(*overrides: str, stage: str = "finetune") -> dict[str, Any]:
    return resolve(compose_config([f"stage={stage}", "hardware=cpu", *overrides]))


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    model: dict[str, Any] = values("model=tiny", stage="flow")["model"]
    return model


def published(path: Path, model: dict[str, Any]) -> Path:
    """A file of no use but for what its metadata say."""
    facts = {
        "format": 1, "index": 1, "kind": "ema", "model": model, "trained": {"expander": "vae"}, "text_encoder": "embed",
        "img_size": 32, "downscale": 8, "flow": None,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"expander.a": torch.zeros(1)}, path, {"fluxflow_exp": json.dumps(facts)})
    return path


def test_the_model_of_a_run_is_not_repeated(tmp_path: Path, tiny: dict[str, Any]) -> None:
    model = {**tiny, "learning_rate": 0.005, "vae_dim": 7}
    file = published(tmp_path / "run" / "weights" / "final.safetensors", model)
    for source in (tmp_path / "run", file):
        found = values(f"init_from={source}")
        assert found["model"] == model
        step = found["stage"]["steps"]["finetune"]
        assert step["init_from"] == str(file)
        assert step["optimizers"]["flow"]["lr"] == 0.005


def test_a_key_that_builds_nothing_may_be_set_and_another_one_that_differs_is_refused(
    tmp_path: Path, tiny: dict[str, Any]
) -> None:
    file = published(tmp_path / "f.safetensors", tiny)
    found = values(f"init_from={file}", "model.learning_rate=0.1", f"model.vae_dim={tiny['vae_dim']}")
    assert found["model"] == {**tiny, "learning_rate": 0.1}
    with pytest.raises(UserError, match=r"model.vae_dim=9 is asked for, and .*f.safetensors has 16: leave it out"):
        values(f"init_from={file}", "model.vae_dim=9")


def test_without_weights_there_is_no_model() -> None:
    with pytest.raises(UserError, match=r"init_from is missing: init_from=RUN_FOLDER_OR_FILE names"):
        values(stage="finetune_lora")
    with pytest.raises(UserError, match="init_from: there is no file /nowhere"):
        values("init_from=/nowhere")


def test_files_that_are_not_published_are_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no weights")
    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    for name in ("text", "other"):
        with pytest.raises(UserError, match=rf"{name} .*Give the weights/final\.safetensors of a run") as told:
            values(f"init_from={tmp_path / name}")
        assert str(told.value).count("Give the weights") == 1


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        ({"_target_": "os.system", "command": "true"}, "names os.system, which is none of this package's"),
        ({"_target_": BYTES, "width": "${oc.env:HOME}"}, "hold an interpolation"),
        (
            {"_target_": "fluxflow_exp.models.huggingface.HuggingFaceTextEncoder", "name": "owner/encoder"},
            "names owner/encoder, which is none of this package's",
        ),
    ],
)
def test_what_a_file_names_is_not_taken_on_trust(
    tmp_path: Path, tiny: dict[str, Any], encoder: dict[str, Any], said: str
) -> None:
    file = published(tmp_path / "f.safetensors", {**tiny, "text_encoder": encoder})
    with pytest.raises(UserError, match=said):
        values(f"init_from={file}")


def test_the_first_step_of_any_stage_starts_there_unless_it_names_its_own(tmp_path: Path) -> None:
    steps = values(f"init_from={tmp_path}/file", stage="full")["stage"]["steps"]
    assert [step["init_from"] for step in steps.values()] == [f"{tmp_path}/file", None, None]
    steps = values(f"init_from={tmp_path}/file", "stage.steps.vae.init_from=mine", stage="full")["stage"]["steps"]
    assert steps["vae"]["init_from"] == "mine"
