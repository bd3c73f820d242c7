"""Curves of reference runs that differ in their seed alone, kept as a small JSON file, and the band they span."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fluxflow_exp import files
from fluxflow_exp.errors import UserError

SHIPPED = Path(__file__).parent / "shipped"
FORMAT = 1
FEWEST_RUNS = 3
WIDEST_GAP = 2.0  # between the pictures of two points that a band is read between
# Two-sided 95 % quantiles of Student's t by degrees of freedom; between two of them the lower one's holds.
STUDENT = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 7: 2.365, 10: 2.228, 20: 2.086}


@dataclass(frozen=True)
class Point:
    """What the reference runs had at one place of a step."""

    update: int
    pictures: int  # seen until then, repetitions included
    rate: float  # learning rate as a share of the one that is configured, in [0, 1]
    values: tuple[float, ...]  # one of each run


@dataclass(frozen=True)
class Band:
    """`low` to `high` is what the runs had; one more run of their kind lies within `least` to `most`."""

    low: float
    median: float
    high: float
    least: float
    most: float


@dataclass(frozen=True)
class Facts:
    """What of one step of a run decides about its likeness to others."""

    alike: dict[str, Any]  # key → value of similar runs, too
    settings: dict[str, Any]  # what is told where it differs
    batch_size: int
    training_pictures: int
    earlier_pictures: int  # seen by all steps before this one
    names: str | None  # digest of the training set's names


@dataclass(frozen=True)
class StepCurves(Facts):
    """One step of the runs."""

    metrics: dict[str, tuple[Point, ...]]


@dataclass(frozen=True)
class Reference:
    """All of a file. `of`: the data in words; `made_with`: machine and versions."""

    of: str
    model: str
    stage: str
    seeds: tuple[int, ...]
    made_with: dict[str, str]
    steps: dict[str, StepCurves]


def band(points: Sequence[Point], pictures: float, *, rate: float, tolerance: float, rate_within: float) -> Band | None:
    """Return the band after so many `pictures`, or None where the runs say nothing about it.

    Between two points it spans those of both, which are no further apart than WIDEST_GAP; nothing is extrapolated. A
    schedule that has brought the learning rate to another share of its peak (by more than `rate_within`) makes another
    curve. `least` and `most` are the 95 % prediction interval of one further run, mean ± t s √(1 + 1/n), where s is the
    deviation at the point or, if that is more, of the whole curve; and at least `tolerance` × |mean| on each side.
    """
    before = [point for point in points if point.pictures <= pictures]
    after = [point for point in points if point.pictures >= pictures]
    if not before or not after:
        return None
    ends = (before[-1], after[0])
    if ends[1].pictures > WIDEST_GAP * ends[0].pictures:
        return None
    rates = [point.rate for point in ends]
    if not min(rates) - rate_within <= rate <= max(rates) + rate_within:
        return None
    least = max(tolerance, _student(len(ends[0].values)) * _spread(points))
    bands = [_band(point.values, least) for point in ends]
    return Band(
        low=min(each.low for each in bands),
        median=sum(each.median for each in bands) / len(bands),
        high=max(each.high for each in bands),
        least=min(each.least for each in bands),
        most=max(each.most for each in bands),
    )


def _band(values: Sequence[float], tolerance: float) -> Band:
    mean, ordered = statistics.fmean(values), sorted(values)
    margin = max(_student(len(values)) * statistics.stdev(values), tolerance * abs(mean))
    low, high = ordered[0], ordered[-1]
    return Band(low, statistics.median(values), high, min(low, mean - margin), max(high, mean + margin))


def _spread(points: Sequence[Point]) -> float:
    """Standard deviation over runs as a share of their mean, of all points: three runs tell little of it at one."""
    shares = [statistics.variance(point.values) / statistics.fmean(point.values) ** 2 for point in points]
    return math.sqrt(statistics.fmean(shares))


def _student(count: int) -> float:
    """Deviations that one run more lies within of the mean of `count` in 95 % of all cases: t √(1 + 1/n)."""
    return STUDENT[max(known for known in STUDENT if known <= count - 1)] * math.sqrt(1 + 1 / count)


def write(path: Path, reference: Reference) -> None:
    """Write a file, each point with low, median and high for readers; 5 significant digits."""
    values = {"format": FORMAT, **asdict(reference)}
    for step in values["steps"].values():
        step["metrics"] = {name: [_row(point) for point in points] for name, points in step["metrics"].items()}
    files.write_json(path, values)


def _row(point: dict[str, Any]) -> dict[str, Any]:
    found = _band(point["values"], 0.0)
    return {
        "update": point["update"],
        "pictures": point["pictures"],
        "rate": round(point["rate"], 4),
        **{key: _short(value) for key, value in asdict(found).items() if key in ("low", "median", "high")},
        "values": [_short(value) for value in point["values"]],
    }


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def read(path: Path) -> Reference:
    """UserError: there is no such file, or `python -m fluxflow_exp.reference make` has not written it."""
    if not path.is_file():
        raise UserError(
            f"there is no file {path}; python -m fluxflow_exp.reference make RUN RUN RUN --out FILE makes one"
        )
    try:
        values = files.read_json(path)
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}, not {FORMAT}")
        steps = {name: _step(step) for name, step in values["steps"].items()}
        known = {key: values[key] for key in ("of", "model", "stage", "made_with")}
        return Reference(**known, seeds=tuple(values["seeds"]), steps=steps)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path} holds no reference curves ({type(error).__name__}: {error})") from error


def _step(values: dict[str, Any]) -> StepCurves:
    metrics = {}
    for name, rows in values["metrics"].items():
        points = (Point(row["update"], row["pictures"], row["rate"], tuple(map(float, row["values"]))) for row in rows)
        metrics[name] = tuple(sorted(points, key=lambda point: point.pictures))
        if any(len(point.values) < FEWEST_RUNS for point in metrics[name]):
            raise ValueError(f"{name} is of fewer than {FEWEST_RUNS} runs")
        if not all(0 < value < math.inf for point in metrics[name] for value in point.values):
            raise ValueError(f"{name} has values that are not above 0")
    return StepCurves(**{**values, "metrics": metrics})


def asked(name: str) -> list[Reference]:
    """Return the references of `evaluation.reference`: `shipped`, `off`, or a file. UserError: it cannot be read."""
    if name == "shipped":
        return [read(path) for path in sorted(SHIPPED.glob("*.json"))]
    return [] if name == "off" else [read(Path(name).expanduser())]
