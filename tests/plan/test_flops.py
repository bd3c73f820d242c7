"""Work of a step's updates."""

from pathlib import Path

import pytest

from fluxflow_exp.config.compose import typed
from fluxflow_exp.data.build import build_data
from fluxflow_exp.plan import flops
from fluxflow_exp.step_length import length_of
from tests.conftest import toy

pytestmark = pytest.mark.usefixtures("garbage_apart")


def counted(*overrides: str, stage: str = "vae") -> list[float]:
    values = toy(Path("out"), f"stage.steps.{stage}.batch_size=8", *overrides, stage=stage)
    config = typed(values)
    data = build_data(config)
    return flops.tflop(config, stage, length_of(config.stage.steps[stage], data[stage], config), data[stage])


def test_checkpointing_and_the_card_do_not_change_it_and_the_batch_multiplies_it() -> None:
    plain = counted()
    assert len(plain) == 40
    assert len(set(plain)) == 1
    assert counted("hardware.activation_checkpointing=true", "hardware=h200") == plain
    assert counted("stage.steps.vae.batch_size=4")[0] == pytest.approx(plain[0] / 2)


def test_updates_of_different_kinds_differ() -> None:
    gan = ["stage.steps.vae_gan.trainer.adversarial.start=0.5", "stage.steps.vae_gan.trainer.adversarial.r1_interval=4"]
    each = counted(*gan, stage="vae_gan")
    before, after = each[:20], each[20:]
    assert len(set(before)) == 1
    assert len(set(after)) == 2  # with R1 and without
    assert max(before) < min(after)
