"""Where a loop's seconds go, by a clock that the test turns."""

import sys
from types import SimpleNamespace

import pytest

from fluxflow_exp.monitor import time_breakdown
from fluxflow_exp.monitor.time_breakdown import TimeBreakdown


class Clock:
    def __init__(self) -> None:
        self.now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time_breakdown, "clock", SimpleNamespace(now=lambda: clock.now))
    return clock


def test_what_has_no_purpose_is_training(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    compiling = [2.0]
    monkeypatch.setattr(time_breakdown, "compiled", lambda: compiling[0])
    found = TimeBreakdown()

    def batches():
        for number in range(2):
            clock.now += 3
            yield number

    for _ in found.waiting(batches()):
        clock.now += 10
    with found.during("evaluation"):
        clock.now += 5
    compiling[0] = 6.0
    assert found.take() == {
        "data": 6.0, "evaluation": 5.0, "pictures": 0.0, "saves": 0.0, "compile": 4.0, "training": 16.0
    }  # fmt: skip
    clock.now += 1
    assert found.take()["training"] == 1.0
    with found.during("saves"):
        clock.now += 4
    assert found.beside == 9.0  # over all, without data


def test_an_error_counts_as_well(clock: Clock) -> None:
    found = TimeBreakdown()

    def fails() -> None:
        clock.now += 2
        raise OSError

    with pytest.raises(OSError), found.during("saves"):  # noqa: PT011
        fails()
    assert found.take()["saves"] == 2.0


def test_compilation_is_counted_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {"entire_frame_compile": 3e9, "entire_backward_compile": 2e9, "inductor_compile": 1e9}
    monkeypatch.setitem(sys.modules, "torch._dynamo.utils", SimpleNamespace(cumulative_time_spent_ns=counted))
    assert time_breakdown.compiled() == 5.0
