"""The time from a command to its first update, by phases."""

import sys
from typing import Any

from fluxflow_exp.machine import clock
from fluxflow_exp.monitor.time_breakdown import compiled

SHOWN = 0.05  # seconds that a phase must take to be told of


class StartUp:
    """Seconds by phase, one after the other from `began` (clock.now) on."""

    def __init__(self, began: float | None = None) -> None:
        self.began = clock.now() if began is None else began
        self.phases: dict[str, float] = {}
        self.over = False  # the first update is done
        self._since, self._compiled, self._graphs = self.began, compiled(), _graphs()

    def ends(self, phase: str) -> None:
        """What was done since the last call was `phase`; one that comes again adds to it."""
        if not self.over:
            now = clock.now()
            self.phases[phase] = self.phases.get(phase, 0.0) + now - self._since
            self._since, self._compiled = now, compiled()

    def ends_with_update(self) -> None:
        """The first update has just ended: what was compiled for it, and the rest of it."""
        compiling = compiled() - self._compiled
        self._since += compiling
        self.phases["compile"] = compiling
        self.ends("first pass")
        self.over = True

    def facts(self) -> dict[str, Any]:
        """Seconds, also by phase, and how many graphs came from torch's cache of compiled code or were compiled."""
        phases = {name: round(value, 3) for name, value in self.phases.items()}
        graphs = {name: count - self._graphs[name] for name, count in _graphs().items()}  # of this run alone
        return {"seconds": round(sum(self.phases.values()), 3), "phases": phases, "graphs": graphs}

    def describe(self) -> str:
        found = self.facts()
        parts = [f"{name} {value:.1f}" for name, value in found["phases"].items() if value >= SHOWN]
        graphs, cached = found["graphs"], ""
        if any(graphs.values()):
            cached = f"; {graphs['cached']} of {sum(graphs.values())} compiled graphs were kept from before"
        return f"First update after {found['seconds']:.1f} s: {', '.join(parts)}{cached}"


def _graphs() -> dict[str, int]:
    counts: dict[str, int] = {}
    if "torch._dynamo.utils" in sys.modules:  # its import takes seconds
        from torch._dynamo.utils import counters

        counts = counters["inductor"]
    missed = counts.get("fxgraph_cache_miss", 0) + counts.get("fxgraph_cache_bypass", 0)
    return {"cached": counts.get("fxgraph_cache_hit", 0), "compiled": missed}
