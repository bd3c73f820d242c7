"""The first field of a record or a row that no run writes is named."""

import json
from typing import Any

import pytest

from fluxflow_exp.run.written import record_problem, row_problem

ROW = {
    "timestamp": "2026-01-01T00:00:00+00:00", "kind": "train", "epoch": 1, "batch": 2, "global_step": 2,
    "metrics": {"l1": 0.5, "mse": None}, "learning_rates": {"vae": 1e-4}, "extras": {"seconds": 1.0},
}  # fmt: skip
RECORD: dict[str, Any] = {
    "format": 1, "name": "a", "overrides": [], "commit": None, "changed_code": None, "upstream": {},
    "made_with": None, "started": True, "restarts": 0, "kills": 0, "closed": None, "wall_seconds": 1.5,
    "steps": {"vae": {"updates": 3}}, "starts": [{"time": "2026-01-01T00:00:00+00:00"}],
}  # fmt: skip


def test_what_a_run_writes_has_no_problem() -> None:
    assert row_problem(json.dumps(ROW).encode()) is None
    assert record_problem(RECORD) is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"metrics": {"l1": float("nan")}}, "metrics.l1: "),
        ({"global_step": -1}, "global_step: input should be greater than or equal to 0"),
        ({"global_step": 2.0}, "global_step: input should be a valid integer"),
        ({"kind": None}, "kind: input should be a valid string"),
    ],
)
def test_a_row_with_another_thing(changed: dict[str, Any], said: str) -> None:
    assert str(row_problem(json.dumps(ROW | changed).encode())).startswith(said)
    assert str(row_problem(b"{half")).startswith("it: invalid JSON")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": 2}, "format: input should be 1"),
        ({"wall_seconds": "1"}, "wall_seconds: input should be a valid number"),
        ({"steps": {"vae": {}}}, "steps.vae.updates: field required"),
        ({"own_code": {"my_tv.TV": []}}, "own_code.my_tv.TV: list should have at least 1 item"),
        ({"starts": [{"time": "2026-01-01T00:00:00"}]}, "starts.0.time: value error, a time without its zone"),
    ],
)
def test_a_record_with_another_thing(changed: dict[str, Any], said: str) -> None:
    assert str(record_problem(RECORD | changed)).startswith(said)
