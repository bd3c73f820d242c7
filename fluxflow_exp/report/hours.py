"""The hours and the price of a run, split by what they went into; from the starts in `run.json`."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

# purpose → what a reader is told; `rest` is what no loop has counted
LABELS = {
    "training": "useful: updates that the result is made of",
    "lost": "lost: done again after an interruption",
    "compile": "compiling (torch.compile)",
    "evaluation": "held-out metrics",
    "pictures": "pictures",
    "data": "waiting for data",
    "saves": "checkpoints",
    "rest": "start-up, caches, publishing",
}


@dataclass
class Hours:
    unit: str  # GPU hours | hours
    hours: float  # of all devices together
    parts: dict[str, float] = field(default_factory=dict)  # purpose → hours, as LABELS; empty: not recorded
    price: float | None = None  # US dollars, where hardware.price_per_hour is set
    lost_updates: int = 0


def split(record: dict[str, Any], flat: dict[str, Any]) -> Hours:
    """The hours in a run's `record`; `flat`: its configuration by dotted key."""
    starts = record.get("starts", [])
    machine = (record.get("made_with") or {}).get("machine", "CPU")
    unit = "hours" if machine.startswith("CPU") else "GPU hours"
    price = flat.get("hardware.price_per_hour")
    if not starts:  # begun before starts were recorded
        devices = flat["hardware.devices"] * flat["hardware.slurm.nodes"]
        hours = record["wall_seconds"] * devices / 3600
        return Hours(unit, hours, price=None if price is None else hours * price)
    sums = dict.fromkeys(LABELS, 0.0)
    for start in starts:
        for purpose, seconds in start["spent"].items():
            sums[purpose] += seconds * start["devices"] / 3600
    lost_updates = 0
    for before, start in pairwise(starts):
        lost = start.get("lost", {"seconds": 0.0, "updates": 0})
        sums["lost"] += lost["seconds"] * before["devices"] / 3600
        lost_updates += lost["updates"]
    hours = sum(start["seconds"] * start["devices"] for start in starts) / 3600
    sums["rest"] = max(hours - sum(sums.values()), 0.0)
    return Hours(unit, hours, sums, None if price is None else hours * price, lost_updates)
