"""What a step that goes on from published weights is refused for, before anything is read."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fluxflow_exp.models import lora, weights
from fluxflow_exp.preflight import check
from tests.conftest import toy
from tests.trainers.test_finetune import TEXT, finetuned

TRAINER = "stage.steps.finetune.trainer"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as a run publishes them, all zeros."""
    model = toy(tmp_path_factory.mktemp("toy"), stage="vae_flow")["model"]
    parts = ("compressor", "expander", "flow_processor", "text_encoder")
    states = {
        part: {name: torch.zeros(shape) for name, shape in weights.expected_shapes(model[part]).items()}
        for part in parts
    }
    facts = {
        "index": 2, "kind": "ema", "model": model, "trained": dict.fromkeys(parts, "flow"), "text_encoder": "embed",
        "img_size": 16, "downscale": 4,
        "flow": {"objective": "rectified_flow", "shift": 2.0, "cfg_dropout_prob": 0.1},
    }  # fmt: skip
    path = tmp_path_factory.mktemp("base") / "final.safetensors"
    weights.publish(path, states, facts)
    return path


def problems(base: Path, tmp_path: Path, *words: str, **options: Any) -> list[str]:
    return check.problems(finetuned(base, tmp_path, f"{TRAINER}.objective.shift=2", *words, **options))


def test_nothing_is_wrong_with_what_the_file_is_of(base: Path, tmp_path: Path) -> None:
    assert problems(base, tmp_path) == []
    assert problems(base, tmp_path, stage="finetune") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([f"{TRAINER}.objective.shift=1"], "objective.shift=1, and the weights were trained with 2: give that"),
        (
            ["+loss@" + TRAINER + ".objective=v_prediction"],
            "is v_prediction, and the weights were trained with rectified_flow",
        ),
        ([f"+{TRAINER}.lora_targets=[nothing.*]"], "lora_targets: nothing.* match no linear layer of flow_processor"),
        (
            [*TEXT, f"+{TRAINER}.lora_targets=[flow*]"],
            "match no linear layer of text_encoder",
        ),
        (["publish.weights=best"], "the best point of an adapter is not published"),
        (["publish.weights=interpolated"], "publish.weights=interpolated: the best point of an adapter is"),
        (["hardware.parallel=fsdp", "hardware.devices=2"], "lora_rank: hardware.parallel=fsdp spreads"),
        ([f"{TRAINER}.lora_rank=null", f"+{TRAINER}.lora_alpha=2"], "lora_alpha acts with"),
        ([f"{TRAINER}.lora_rank=0"], "lora_rank must be"),
    ],
)
def test_one_line_says_what_is_wrong(base: Path, tmp_path: Path, words: list[str], said: str) -> None:
    found = problems(base, tmp_path, *words)
    assert len(found) == 1, found
    assert said in found[0]


def test_another_model_than_that_of_the_file_is_told_by_its_key(base: Path, tmp_path: Path) -> None:
    """Its shapes are the same, what is computed is not."""
    words = ["model.text_dim=32", "model.vae_dim=4", "model.compressor.widths=[8,16]", "model.flow_processor.depth=1"]
    words += ["model.flow_processor.width=32", "model.flow_processor.heads=2"]
    assert problems(base, tmp_path, "model=tiny", *words) == []
    (line,) = problems(base, tmp_path, "model=tiny", *words, "model.flow_processor.absolute_positions=false")
    assert line.startswith("model=tiny has model.flow_processor.absolute_positions=False, and ")
    assert line.endswith("was trained with True: leave model=… out, and it is the file's")
    (line,) = problems(base, tmp_path, "model=compact")
    assert line.startswith("model=compact has model.compressor.blocks=2, and ")


def test_without_peft_its_extra_is_named(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "installed", lambda: False)
    (line,) = problems(base, tmp_path)
    assert 'pip install "fluxflow-exp[finetune]"' in line
    assert problems(base, tmp_path, stage="finetune") == []


def test_weights_without_a_flow_transformer_ask_for_those_of_a_flow_step(base: Path, tmp_path: Path) -> None:
    facts = weights.read_facts(base)
    parts = ("compressor", "expander")
    path = tmp_path / "run" / "weights" / "vae.safetensors"
    weights.publish(
        path, {part: weights.read_part(base, part) for part in parts}, {**facts, "trained": dict.fromkeys(parts, "vae")}
    )
    assert weights.find_parts(path.parent) == weights.find_parts(tmp_path / "run") == dict.fromkeys(parts, path)
    assert problems(path, tmp_path) == [
        f"stage.steps.finetune needs a trained flow_processor, which {path} does not hold: "
        "give init_from=RUN_FOLDER_OR_FILE of a run with a flow step"
    ]
