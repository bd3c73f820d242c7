"""When to save: by count, by time, or at the interval that loses least."""

import math

import pytest

from fluxflow_exp.machine import clock
from fluxflow_exp.run.save_interval import SaveClock, best_interval


def test_by_count_and_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    saves = SaveClock(every_minutes=30, every_updates=100)
    assert saves.due(200)
    assert not saves.due(201)
    later = clock.now() + 31 * 60
    monkeypatch.setattr("fluxflow_exp.machine.clock.now", lambda: later)
    assert saves.due(201)
    assert saves.saved(1.0) is None
    assert not saves.due(201)
    assert not SaveClock(every_minutes=None, every_updates=None).due(100)


def lost_share(interval: float, cost: float, between: float) -> float:
    """Expected time spent for a second of work, when losses come at random (Daly 2006, eq. 13, without restarts)."""
    return between * (math.exp((interval + cost) / between) - 1) / interval


@pytest.mark.parametrize(("cost", "between"), [(0.5, 21600.0), (30.0, 3600.0), (60.0, 600.0)])
def test_the_interval_loses_least(cost: float, between: float) -> None:
    best = best_interval(cost, between)
    costs = {factor: lost_share(best * factor, cost, between) for factor in (0.7, 0.9, 1.0, 1.1, 1.4)}
    assert costs[1.0] == min(costs.values()) or costs[1.0] == pytest.approx(min(costs.values()), rel=1e-3)
    assert costs[1.0] < min(costs[0.7], costs[1.4])


def test_costly_saves_come_once_a_loss() -> None:
    assert best_interval(100.0, 40.0) == 40.0


def test_auto_measures_and_says_why() -> None:
    clock = SaveClock(every_minutes="auto", every_updates=None, kills=2, lived=3600.0)
    assert clock.minutes() == 1.0
    said = clock.saved(20.0)
    between = 7 * 3600 / 3
    assert clock.between_losses() == pytest.approx(between)
    assert clock.minutes() == pytest.approx(best_interval(20.0, between) / 60)
    assert said
    assert said.startswith(f"Saving every {clock.minutes():.1f} min from now on: ")
    assert "a save takes 20.00 s" in said
    assert said.endswith("and the run has been cut off 2 times in 60 min")
    assert clock.saved(21.0) is None  # said once a process
    steps = SaveClock(every_minutes="auto", every_updates=None)
    assert steps.saved(20.0, goes_on=False) is None  # a step's last save: nothing follows that it would be said of
    assert (steps.saved(20.0) or "").startswith("Saving every ")
    lately = SaveClock(every_minutes="auto", every_updates=None, kills=1)
    assert (lately.saved(20.0) or "").endswith("and the run has been cut off once")


def test_auto_stays_between_a_minute_and_an_hour() -> None:
    cheap = SaveClock(every_minutes="auto", every_updates=None)
    assert (cheap.saved(0.001) or "").endswith("is expected to be cut off every 6 h")
    dear = SaveClock(every_minutes="auto", every_updates=None)
    dear.saved(2000.0)
    assert (cheap.minutes(), dear.minutes()) == (1.0, 60.0)
