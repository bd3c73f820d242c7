"""The benchmark command, on toy steps."""

import json
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp.benchmark.command import main
from fluxflow_exp.benchmark.measurement import measure
from fluxflow_exp.errors import UserError
from tests.conftest import TOY, toy

STEPS = [f"stage.steps.{name}.{key}" for name in ("vae", "vae_gan", "flow") for key in ("n_epochs=4", "batch_size=8")]


def test_numbers_of_each_step_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "numbers.json"
    overrides = [*TOY, *STEPS, f"output_root={tmp_path / 'outputs'}"]
    # Options may stand anywhere among overrides.
    assert main([overrides[0], "--updates", "2", *overrides[1:], "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    said = capsys.readouterr().out
    assert found["overrides"] == overrides
    assert set(found["steps"]) == {"vae", "vae_gan", "flow"}
    for name, step in found["steps"].items():
        seconds = step["seconds"]
        assert 0 < seconds["least"] <= seconds["median"] <= seconds["most"]
        assert step["images_per_second"] == pytest.approx(8 / seconds["mean"])
        assert step["tflops"] == pytest.approx(step["tflop"] / seconds["mean"])
        assert step["share_of_matrix_rate"] is None, "a CPU is not bound by its matrix product"
        assert 0 <= step["data_wait"] < 1
        assert step["peak_gib"] is None, "there is no GPU"
        assert f"Step {name}: 8 images an update" in said
    assert found["steps"]["vae_gan"]["tflop"] > found["steps"]["vae"]["tflop"], "the discriminator plays"
    assert not (tmp_path / "outputs").exists()


def test_the_work_of_an_update_does_not_depend_on_the_micro_batch(tmp_path: Path) -> None:
    def tflop(*overrides: str) -> float:
        values: dict[str, Any] = toy(tmp_path, *STEPS, *overrides)
        found: float = measure(values, updates=2, only=["vae"])["steps"]["vae"]["tflop"]
        return found

    whole = tflop()
    assert whole > 0
    assert tflop("hardware.micro_batch.autoencoder=2") == pytest.approx(whole)
    assert tflop("stage.steps.vae.batch_size=4") == pytest.approx(whole / 2)


def test_what_cannot_be_measured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="step vae has 16 updates, and 99 are needed"):
        measure(toy(tmp_path, *STEPS), updates=99, only=["vae"])
    assert main([*TOY, "--step", "vea"]) == 2
    told = capsys.readouterr().err
    assert "--step vea: stage=quickstart has no such step; did you mean 'vae'?" in told
    assert "Its steps: vae, vae_gan, flow" in told
    assert main(["model.activaton=silu", "--updates", "1"]) == 2
    told = capsys.readouterr().err
    assert "did you mean 'model.activation'" in told
    assert "--updates must be at least 2" in told
