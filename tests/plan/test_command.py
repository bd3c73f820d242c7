"""`python -m fluxflow_exp.plan`: what a run will need, before it runs.

Covers plan/forecast as well.
"""

import json
from pathlib import Path

import pytest

from fluxflow_exp.plan.command import main
from tests.conftest import TOY

pytestmark = pytest.mark.usefixtures("garbage_apart")

# Eager, so that no graphs have to be traced.
SMALL = [each for each in TOY if not each.startswith(("hardware", "stage"))] + ["hardware.compile=false"]
VAE = [*SMALL, "stage=vae", "stage.steps.vae.batch_size=4", "model=tiny"]


def test_the_bare_pipeline_is_planned_for_a_card_that_is_not_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [f"stage.steps.{step}.batch_size=8" for step in ("vae", "vae_gan", "flow")]
    start = "stage.steps.vae_gan.trainer.adversarial.start=0"
    given = [*SMALL, "stage=quickstart", "model=tiny", "hardware=h200", *sizes, start, "hardware.price_per_hour=3"]
    assert main([*given, "--json", str(tmp_path / "plan.json")]) == 0
    said = capsys.readouterr().out
    for word in ("Step 1: vae", "Step 2: vae_gan", "Step 3: flow", "TFLOP", "GiB at the peak", "USD", "latent cache"):
        assert word in said
    written = json.loads((tmp_path / "plan.json").read_text())
    assert [each["step"] for each in written["steps"]] == ["vae", "vae_gan", "flow"]
    vae, gan, flow = written["steps"]
    assert vae["updates"] == 12
    assert vae["largest_micro_batch"] == 8
    assert gan["trained"] == vae["trained"] + gan["parameters"]["discriminator"]
    assert flow["latent_cache_gib"] == pytest.approx(32 * 2 * 4 * 4 * 4 * 2 / 2**30)
    assert vae["dollars"] == pytest.approx(3 * vae["hours"])
    assert vae["hours"] == pytest.approx(vae["seconds"] * 12 / 3600)
    assert written["total"]["pflop"] == pytest.approx(sum(s["tflop"] * s["updates"] for s in written["steps"]) / 1e3)


def test_an_unknown_override_is_refused_as_by_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["modle=tiny"]) == 2
    assert "did you mean 'model'?" in capsys.readouterr().err


def test_a_flow_step_alone_needs_an_autoencoder_here_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage=flow", "hardware=h200"]) == 2
    assert "init_from" in capsys.readouterr().err


def test_what_does_not_fit_is_said_with_what_does(capsys: pytest.CaptureFixture[str]) -> None:
    bigger = ["hardware=h200", "data.img_size=512"]
    given = [each for each in VAE if not each.startswith("data.img_size")] + bigger
    assert main([*given, "hardware.memory_gib=1.15"]) == 1
    said = capsys.readouterr().out
    assert "does not fit" in said
    assert any(f"set hardware.micro_batch.autoencoder={size}" in said for size in (1, 2))
    assert main([*given, "hardware.memory_gib=1"]) == 1
    assert "whatever the micro-batch: try hardware.activation_checkpointing=true" in capsys.readouterr().out


def test_on_a_cpu_time_is_measured_and_fit_is_left_open(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    written = tmp_path / "plan.json"
    assert main([*VAE, "hardware=cpu", "stage.steps.vae.max_updates=5", "--json", str(written)]) == 0
    said = capsys.readouterr().out
    (step,) = json.loads(written.read_text())["steps"]
    assert step["measured"]
    assert step["hours"] == pytest.approx(step["seconds"] * 5 / 3600)
    assert "for the step (measured on this machine; reading aside)" in said
    assert "money:      set hardware.price_per_hour" in said
    assert "set hardware.memory_gib" in said
    assert "memory is that of a GPU" in said
