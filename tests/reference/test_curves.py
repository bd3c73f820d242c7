"""The band of planted points against its closed form, and its file."""

import math
from functools import partial
from pathlib import Path

import pytest

from fluxflow_exp import files
from fluxflow_exp.errors import UserError
from fluxflow_exp.reference import curves
from fluxflow_exp.reference.curves import Point, Reference, StepCurves, band

POINTS = [
    Point(100, 800, 1.0, (1.0, 1.1, 1.2)),
    Point(150, 1200, 0.8, (0.9, 0.9, 0.9)),
    Point(400, 3200, 0.1, (0.5,) * 3),
]
around = partial(band, POINTS, tolerance=0.0, rate_within=0.15)


def test_a_band_is_what_one_more_run_has_in_nineteen_of_twenty():
    """Three runs with deviation 0.1: mean ± 4.303 × 0.1 × √(4/3)."""
    found = around(800, rate=1.0)
    assert (found.low, found.median, found.high) == (1.0, 1.1, 1.2)
    margin = 4.303 * 0.1 * math.sqrt(4 / 3)
    assert (found.least, found.most) == pytest.approx((1.1 - margin, 1.1 + margin))


def test_where_runs_happen_to_agree_a_band_is_as_wide_as_the_curve_says_and_never_narrower_than_its_tolerance():
    """One point of three with a deviation of 1/11 of its mean: √(1/3) of that in all."""
    found = around(1200, rate=0.8)
    margin = 0.9 * 4.303 * math.sqrt(4 / 3) / 11 / math.sqrt(3)
    assert (found.least, found.most) == pytest.approx((0.9 - margin, 0.9 + margin))
    found = band(POINTS[1:], 1200, rate=0.8, tolerance=0.05, rate_within=0.15)
    assert (found.least, found.most) == pytest.approx((0.855, 0.945))


def test_between_two_points_a_band_spans_both_and_beyond_them_there_is_none():
    found = around(1000, rate=0.9)
    assert (found.low, found.high) == (0.9, 1.2)
    assert around(799, rate=1.0) is None
    assert around(3201, rate=0.1) is None
    assert around(2000, rate=0.5) is None, "the points are further apart than twice"


def test_another_place_in_the_schedule_has_no_band():
    assert around(800, rate=0.86) is not None
    assert around(800, rate=0.84) is None


def test_a_file_gives_back_what_was_written_with_low_median_and_high_for_readers(tmp_path: Path):
    settings = {"learning rate": {"flow": 1e-3}}
    step = StepCurves({"model.name": "tiny"}, settings, 8, 320, 0, None, {"flow": tuple(POINTS)})
    reference = Reference("toys", "tiny", "flow", (0, 1, 2), {"torch": "2"}, {"flow": step})
    path = tmp_path / "curves.json"
    curves.write(path, reference)
    assert curves.read(path) == reference
    assert '"median": 1.1' in path.read_text()
    written = files.read_json(path)
    for row in written["steps"]["flow"]["metrics"]["flow"]:
        row["values"] = row["values"][:2]
    files.write_json(path, written)
    with pytest.raises(UserError, match="fewer than 3 runs"):
        curves.read(path)
    for text in ("[]", '{"format": 2}', "{"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"curves\.json"):
            curves.read(path)
    with pytest.raises(UserError, match="there is no file"):
        curves.read(tmp_path / "none.json")
