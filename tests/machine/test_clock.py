"""A clock that stands still while its process does."""

import os
import signal
import time
from pathlib import Path

import pytest

from fluxflow_exp.machine import clock
from tests.helpers.children import CONTEXT


@pytest.fixture
def turned(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Times of the system and of the processor, to be turned by the test; nobody looks by himself."""
    times = {"monotonic": 100.0, "process_time": 7.0}
    for name in times:
        monkeypatch.setattr(time, name, lambda name=name: times[name])
    monkeypatch.setattr(clock, "_thread", None)
    monkeypatch.setattr(clock, "_stopped", 0.0)
    monkeypatch.setattr(clock, "EVERY", 1e9)
    clock.now()
    return times


def test_a_gap_without_work_does_not_count(turned: dict[str, float]) -> None:
    first = clock.now()
    turned["monotonic"] += 3600  # suspended
    turned["process_time"] += 0.01
    assert clock.now() == first
    turned["monotonic"] += 3600  # the interpreter was held by a computation that lets no thread look
    turned["process_time"] += 3000
    assert clock.now() == first + 3600
    turned["monotonic"] += 4  # a short wait
    assert clock.now() == first + 3604


def test_a_stopped_process_counts_its_own_time(tmp_path: Path) -> None:
    child = CONTEXT.Process(target=_count, args=(tmp_path / "counted",))
    child.start()
    while not (tmp_path / "counted").exists():
        time.sleep(0.01)
    os.kill(child.pid or 0, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(child.pid or 0, signal.SIGCONT)
    child.join(30)
    real, counted = map(float, (tmp_path / "counted").read_text().split())
    assert real >= 1.5  # the stop; of the naps, those that it did not swallow
    assert counted < real - 1.2


def _count(path: Path) -> None:
    """Wait for half a second, and be stopped meanwhile."""
    clock.EVERY, clock.LONG = 0.05, 1.0
    real, counted = time.monotonic(), clock.now()
    path.touch()
    for _ in range(50):
        time.sleep(0.01)
    path.write_text(f"{time.monotonic() - real} {clock.now() - counted}")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.52, "0.52 s"), (31.1, "31 s"), (119, "119 s"), (257.4, "4.29 min"), (3600, "60 min"), (9000, "2.5 h")],
)
def test_a_length_of_time_is_said_in_the_unit_that_suits_it(seconds: float, words: str) -> None:
    assert clock.shown(seconds) == words
