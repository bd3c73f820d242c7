"""Times of calls and the rate of matrix products."""

import time

import pytest
import torch

from fluxflow_exp.benchmark import stopwatch
from fluxflow_exp.machine.hardware import Machine

CPU = Machine(torch.device("cpu"), "fp32", exact=True)


def test_each_call_has_its_own_seconds() -> None:
    short, long = stopwatch.timed([lambda: None, lambda: time.sleep(0.02)], CPU)
    assert short < 0.02 <= long


def test_the_rate_is_that_of_the_median_after_three_to_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopwatch, "timed", lambda calls, machine: [9.0] * 3 + [0.5, *[2.0] * 8, 7.0][: len([*calls])])
    assert stopwatch.matrix_rate(CPU) == pytest.approx(2 * 1024**3 / 2.0 / 1e12)
