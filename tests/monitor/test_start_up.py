"""The time to the first update is told by phases that add up to it."""

import pytest

from fluxflow_exp.machine import clock
from fluxflow_exp.monitor import start_up
from fluxflow_exp.monitor.start_up import StartUp


def test_phases_add_up_and_compiling_is_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    time, compiling = 100.0, 3.0
    monkeypatch.setattr(clock, "now", lambda: time)
    monkeypatch.setattr(start_up, "compiled", lambda: compiling)
    graphs = {"cached": 5, "compiled": 2}  # of a run before, in the same process
    monkeypatch.setattr(start_up, "_graphs", lambda: graphs)
    found = StartUp(96.0)
    graphs = {"cached": 8, "compiled": 3}
    found.ends("imports")
    time = 102.0
    found.ends("model")
    time = 103.0
    found.ends("model")
    time, compiling = 110.0, 8.0
    found.ends_with_update()
    time = 200.0
    found.ends("model")
    phases = {"imports": 4.0, "model": 3.0, "compile": 5.0, "first pass": 2.0}
    assert found.facts() == {"seconds": 14.0, "phases": phases, "graphs": {"cached": 3, "compiled": 1}}
    assert list(found.phases) == list(phases)
    assert found.describe() == (
        "First update after 14.0 s: imports 4.0, model 3.0, compile 5.0, first pass 2.0; "
        "3 of 4 compiled graphs were kept from before"
    )


def test_a_process_began_before_it_was_asked() -> None:
    assert 0 <= clock.now() - clock.process_began() < clock.LONGEST_START
