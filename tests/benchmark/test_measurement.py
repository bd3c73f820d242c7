"""What is measured of a step's updates."""

import signal
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp.benchmark.measurement import measure, warm
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine.preemption import SIGNALS
from tests.conftest import toy

STEPS = ["stage.steps.vae.n_epochs=4", "stage.steps.vae.batch_size=8"]


def test_the_work_of_an_update_does_not_depend_on_the_micro_batch(tmp_path: Path) -> None:
    def tflop(*overrides: str) -> float:
        values: dict[str, Any] = toy(tmp_path, *STEPS, *overrides)
        found: float = measure(values, updates=2, only=["vae"])["steps"]["vae"]["tflop"]
        return found

    whole = tflop()
    assert whole > 0
    assert tflop("hardware.micro_batch.autoencoder=2") == pytest.approx(whole)
    assert tflop("stage.steps.vae.batch_size=4") == pytest.approx(whole / 2)


def test_a_step_with_too_few_updates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="step vae has 16 updates, and 99 are needed"):
        measure(toy(tmp_path, *STEPS), updates=99, only=["vae"])


def test_a_warm_step_is_timed_again_and_again(tmp_path: Path) -> None:
    handlers = [signal.getsignal(each) for each in SIGNALS]
    with warm(toy(tmp_path, *STEPS), "vae") as times:
        assert [signal.getsignal(each) for each in SIGNALS] == handlers  # Ctrl-C ends it
        assert [len(times(count)) for count in (2, 6)] == [2, 6]  # of four batches in memory
    assert not list(tmp_path.iterdir())


def test_updates_that_diverge_are_told_in_words(tmp_path: Path) -> None:
    values = toy(tmp_path, *STEPS, "optimizer.lr=1e9")
    with pytest.raises(UserError, match=r"cannot be timed: .* is not finite at update"), warm(values, "vae"):
        pass
    with warm(values, "vae", diverging=True) as times:  # a study's: that is the business of its run
        assert len(times(2)) == 2
