"""The benchmark command, on toy steps."""

import json
from pathlib import Path

import pytest

from fluxflow_exp.benchmark.command import main
from tests.conftest import TOY

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


def test_what_cannot_be_measured_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TOY, "--step", "vea"]) == 2
    told = capsys.readouterr().err
    assert "--step vea: stage=quickstart has no such step; did you mean 'vae'?" in told
    assert "Its steps: vae, vae_gan, flow" in told
    assert main(["model.activaton=silu", "--updates", "1"]) == 2
    told = capsys.readouterr().err
    assert "did you mean 'model.activation'" in told
    assert "--updates must be at least 2" in told
