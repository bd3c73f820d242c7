"""GPU hours of a run by what they went into."""

from typing import Any

import pytest

from fluxflow_exp.report.hours import LABELS, split

FLAT = {"hardware.devices": 2, "hardware.slurm.nodes": 1, "hardware.price_per_hour": 1.5}


def start(**facts: Any) -> dict[str, Any]:
    return {"devices": 2, "after": "killed", "seconds": 3600.0, "spent": {"training": 1800.0}, **facts}


def test_every_start_counts_with_its_devices() -> None:
    starts = [
        start(),
        start(devices=1, spent={"training": 3000.0, "data": 360.0}, lost={"seconds": 900.0, "updates": 9}),
    ]
    found = split({"starts": starts, "made_with": {"machine": "NVIDIA H100"}, "wall_seconds": 7200.0}, FLAT)
    assert (found.unit, found.hours, found.price, found.lost_updates) == ("GPU hours", 3.0, 4.5, 9)
    assert found.parts["training"] == pytest.approx(1.0 + 3000 / 3600)
    assert found.parts["lost"] == 0.5  # of the two devices before
    assert found.parts["data"] == 0.1
    assert sum(found.parts.values()) == pytest.approx(found.hours)
    assert list(found.parts) == list(LABELS)


def test_a_run_that_recorded_no_starts_has_its_total() -> None:
    found = split(
        {"made_with": {"machine": "CPU, 1 threads"}, "wall_seconds": 1800.0}, {**FLAT, "hardware.price_per_hour": None}
    )
    assert (found.unit, found.hours, found.parts, found.price) == ("hours", 1.0, {}, None)
