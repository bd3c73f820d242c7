"""The curves of runs: which number is drawn where, from metric rows to the JSON that `charts.js` reads.

A panel has one line a player, a kind of weights or a run. The axis is that of updates, step after step.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fluxflow_exp.monitor import metrics
from fluxflow_exp.run.metric_log import Row

POINTS = 300  # a line; more rows are averaged in groups
DIGITS = 5
WIDE = 20  # times the smallest value, from where an axis is logarithmic

LOSSES, HELD_OUT, RATES = "Losses", "Held-out metrics", "Learning rates, gradients and speed"
BALANCE, HEALTH = "Discriminator balance", "Health"
SECTIONS = (HELD_OUT, LOSSES, BALANCE, HEALTH, RATES)
WEIGHTS = {"held_out": "averaged weights", "held_out_raw": "raw weights"}


@dataclass
class Track:
    """The rows of a run by step, in the order of the steps, and where each step begins on the axis of updates."""

    steps: dict[str, list[Row]]

    @property
    def offsets(self) -> dict[str, int]:
        found, offset = {}, 0
        for name, rows in self.steps.items():
            found[name] = offset
            offset += max((row["global_step"] for row in rows), default=0)
        return found

    @property
    def updates(self) -> int:
        return sum(max((row["global_step"] for row in rows), default=0) for rows in self.steps.values())


Lines = dict[tuple[str, str], dict[str, list[tuple[float, float | None]]]]
"""(section, name) → line → points."""


def panels(track: Track, best: Mapping[str, Mapping[str, Any]] | None = None) -> list[dict[str, Any]]:
    """The panels of one run, section by section; what was logged once is a point.

    `best`: step → its best point (update, metric, value), which is marked.
    """
    found, offsets = _lines(track), track.offsets
    marked: dict[str, list[dict[str, Any]]] = {}
    for step, point in (best or {}).items():
        marked.setdefault(point["metric"], []).append({"x": offsets[step] + point["update"], "y": point["value"]})
    return [
        {
            **_panel(section, name, [{"name": line, **_thin(points)} for line, points in lines.items()], [track]),
            "best": marked.get(name, []) if section == HELD_OUT else [],
        }
        for (section, name), lines in _ordered(found)
    ]


def overlaid(tracks: dict[str, Track]) -> list[dict[str, Any]]:
    """The panels of several runs, each with a line a run; what a run has several lines of is a panel each."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run, track in tracks.items():
        for (section, name), lines in _lines(track).items():
            for line, points in lines.items():
                title = name if len(lines) == 1 or line == WEIGHTS["held_out"] else f"{name}: {line}"
                found.setdefault((section, title), []).append({"name": run, **_thin(points)})
    return [_panel(section, name, series, list(tracks.values())) for (section, name), series in _ordered(found)]


def marks(track: Track) -> list[dict[str, Any]]:
    """The updates at which steps begin."""
    return [{"x": offset, "label": name} for name, offset in track.offsets.items()]


def wide(values: list[float]) -> bool:
    """Whether a logarithmic axis shows them better."""
    return bool(values) and min(values) > 0 and max(values) > WIDE * min(values)


def _lines(track: Track) -> Lines:
    found: Lines = {}

    def add(section: str, name: str, line: str, x: int, value: float | None) -> None:
        found.setdefault((section, name), {}).setdefault(line, []).append((x, value))

    for step, offset in track.offsets.items():
        for row in track.steps[step]:
            x, kind = offset + row["global_step"], row["kind"]
            for name, value in row["metrics"].items():
                if kind == "train" and name.endswith("_norm"):
                    add(RATES, "gradient norm", name.removesuffix("_norm"), x, value)
                elif kind in WEIGHTS:
                    add(HELD_OUT, name, WEIGHTS[kind], x, value)
                elif kind in ("train", "health"):
                    other = LOSSES if kind == "train" else HEALTH
                    add(BALANCE if metrics.named(name).balance else other, name, name, x, value)
            for name, value in row["learning_rates"].items():
                add(RATES, "learning rate", name, x, value)
            if kind == "train" and "batch_time" in row["extras"]:
                add(RATES, "seconds an update", "seconds", x, row["extras"]["batch_time"])
    return found


def _ordered(found: dict[tuple[str, str], Any]) -> list[tuple[tuple[str, str], Any]]:
    known = list(metrics.METRICS)

    def place(item: tuple[tuple[str, str], Any]) -> tuple[int, int, str]:
        section, name = item[0]
        return SECTIONS.index(section), known.index(name) if name in known else len(known), name

    return sorted(found.items(), key=place)


def _panel(section: str, name: str, series: list[dict[str, Any]], tracks: list[Track]) -> dict[str, Any]:
    """`from` and `to`: the updates between which the steps lie that have logged it."""
    base, colon, line = name.partition(": ")
    metric = metrics.named(base)
    values = [value for each in series for value in each["y"] if value is not None]
    first = min(each["x"][0] for each in series)
    begins = max((offset for track in tracks for offset in track.offsets.values() if offset < first), default=0)
    ends = max(each["x"][-1] for each in series)
    return {
        "section": section,
        "title": f"{metric.title}{colon}{line}",
        "unit": metric.unit,
        "log": wide(values),
        "from": begins,
        "to": ends,
        "series": series,
    }


def _thin(points: list[tuple[float, float | None]]) -> dict[str, list[Any]]:
    """x and y of at most POINTS points: means of neighbours, the last one as it is."""
    size = -(-len(points) // POINTS)
    groups = [points[i : i + size] for i in range(0, len(points) - 1, size)] + [points[-1:]] if size > 1 else None
    if groups is None:
        return {"x": [x for x, _ in points], "y": [_short(y) for _, y in points]}
    return {"x": [group[-1][0] for group in groups], "y": [_mean([y for _, y in group]) for group in groups]}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _short(sum(known) / len(known)) if known else None


def _short(value: float | None) -> float | None:
    """Few digits, so that the file stays small; a value that was not finite is a gap."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")
