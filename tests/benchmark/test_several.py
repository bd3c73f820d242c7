"""What a rank's updates wait for; and what is measured of a rank alone."""

from pathlib import Path

import pytest

from fluxflow_exp.benchmark.several import of_rank, shares, spread
from tests.conftest import toy


@pytest.mark.parametrize(
    ("exchanges", "work", "expected"),
    [
        ([], [], (0.0, 0.0, 0.0)),
        ([], [(0.0, 3.0), (4.0, 5.0)], (0.0, 0.0, 0.2)),
        ([(4.0, 5.0)], [(0.0, 4.0)], (0.2, 0.2, 0.0)),
        ([(1.0, 3.0)], [(0.0, 4.0)], (0.5, 0.0, 0.0)),  # hidden
        ([(3.0, 6.0), (5.0, 8.0)], [(0.0, 4.0), (1.0, 2.0), (7.0, 10.0)], (0.5, 0.3, 0.0)),
    ],
)
def test_an_exchange_costs_what_no_work_hides(
    exchanges: list[tuple[float, float]], work: list[tuple[float, float]], expected: tuple[float, float, float]
) -> None:
    assert shares(exchanges, work) == pytest.approx(expected)


def test_spread_is_of_quartiles() -> None:
    found = {"median": 3.0, "lower": 2.0, "upper": 4.0, "least": 1.0, "most": 5.0}
    assert spread([5.0, 1.0, 4.0, 2.0, 3.0]) == found


def test_a_rank_alone_is_timed_and_leaves_nothing(tmp_path: Path) -> None:
    values = toy(tmp_path, "stage.steps.vae.n_epochs=10", "stage.steps.vae.batch_size=8", stage="vae")
    found = of_rank(values, "vae", updates=4)
    assert (found["batch_size"], found["num_workers"], found["communication"]) == (8, 0, None)
    assert 0 <= found["data_wait"] < 1
    assert 0 < found["host_wait"] < 1
    assert len(found["each_in_memory"]) == 4
    assert found["seconds"]["least"] <= found["seconds"]["median"] <= found["seconds"]["most"]
    assert not list(tmp_path.rglob("*.pt"))
