"""A panel of a picture: curves over a run's updates, on axes that can be read whatever their values are."""

import math
from typing import NamedTuple

from fluxflow_exp.report import figures
from fluxflow_exp.report.figures import Axes, FixedLocator, LogLocator, NullLocator
from fluxflow_exp.report.panels import WIDE, wide

Series = dict[str, tuple[list[float], list[float]]]  # name → updates, values

# Of the names of steps, in parts of the axes: a letter's width, a row's height, the room on the right; and rows.
LETTER, ROW, BESIDE, ROWS = 0.016, 0.04, 0.1, 3


class Panel(NamedTuple):
    label: str
    series: Series
    names: tuple[str, ...]  # of lines, those that are in `series`
    log: bool = True  # where values lie far apart
    limits: tuple[float, ...] = ()  # drawn as dashed lines
    right: tuple[str, str] | None = None  # label and name of a line with a scale of its own
    file: str | None = None  # its own picture


def draw(axes: Axes, panel: Panel, marks: dict[str, int]) -> None:
    """Draw `panel`, of which something was logged, and where steps begin; `marks`: step → its first update."""
    present = [name for name in panel.names if name in panel.series]
    lines = [panel.series[name] for name in present]
    for index, (name, line) in enumerate(zip(present, lines, strict=True)):
        style = "--" if line in lines[:index] else "-"  # one that another lies upon is still seen
        axes.plot(*line, label=figures.label(name), linewidth=1.2, marker=_marker(line), linestyle=style)
    for limit in panel.limits:
        axes.axhline(limit, color="tab:red", linestyle="--", linewidth=0.9)
    for position in marks.values():
        axes.axvline(position, color="0.8", linewidth=0.8)
    _name_steps(axes, marks)
    _scale(axes, [*panel.limits, *(value for _, values in lines for value in values)], log=panel.log)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("optimizer updates")
    axes.set_ylabel(panel.label if axes.get_yscale() == "linear" else f"{panel.label}, log scale")
    axes.grid(alpha=0.25)
    if panel.right and panel.right[1] in panel.series:
        _right(axes, panel, *panel.right)
    else:
        axes.legend(fontsize=8)


def _name_steps(axes: Axes, marks: dict[str, int]) -> None:
    """Above where they begin, in the lowest row that is free there; so far left that they end in the picture."""
    left, right = axes.get_xlim()
    free = [left] * ROWS  # where the last name of each row ends
    for name, position in marks.items():
        width = LETTER * (len(name) + 1) * (right - left)
        start = max(left, min(position, right + BESIDE * (right - left) - width))
        row = next((row for row, end in enumerate(free) if start >= end), None)
        if row is not None:
            free[row] = start + width
            place = axes.get_xaxis_transform()
            axes.text(start, 1.01 + ROW * row, f" {name}", transform=place, fontsize=8, color="0.4")


def _marker(line: tuple[list[float], list[float]]) -> str:
    """Of few points each is seen, also one that no line leads to."""
    return "." if len(line[0]) < 30 else ""


def _right(axes: Axes, panel: Panel, label: str, name: str) -> None:
    """A dashed line with a scale of its own on the right, and the names of all lines in a strip above them."""
    right = axes.twinx()
    line, told = panel.series[name], f"{label} (right)"
    right.plot(*line, color="tab:orange", linewidth=1, marker=_marker(line), linestyle="--", label=told)
    right.set_ylim(0, 1.1 * max(line[1]) or 1)
    right.yaxis.set_major_formatter("{x:.2g}")
    right.tick_params(labelsize=7, colors="tab:orange", pad=1)
    for each in (axes, right):
        scale = each.yaxis.get_transform()
        low, high = scale.transform(each.get_ylim())
        each.set_ylim(top=float(scale.inverted().transform(high + 0.15 * (high - low))))
    lines = [*axes.get_lines()[:1], *right.get_lines()]
    right.legend(lines, [str(line.get_label()) for line in lines], fontsize=8, loc="upper center", ncols=2)


def _scale(axes: Axes, values: list[float], *, log: bool) -> None:
    """Logarithmic where `values` lie so far apart that it has three ticks; with enough digits to tell ticks apart.

    Plain numbers at the major ticks alone: typesetting powers of ten took most of the time that a picture took.
    """
    smallest, largest = min(values), max(values)
    if log and wide(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if largest < 1000 * smallest else (1,)))
    elif log and smallest <= 0:  # the generator's hinge loss is negative when it wins
        _symmetric(axes, values)
    axes.yaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    digits = max(4, 3 + math.ceil(math.log10(max(abs(low), abs(high)) / (high - low))))
    axes.yaxis.set_major_formatter(f"{{x:.{digits}g}}")


def _symmetric(axes: Axes, values: list[float]) -> None:
    """Logarithmic on both sides of zero, if some of `values` lie far from it; linear where the smallest tenth lies."""
    sizes = sorted(map(abs, values))
    largest = sizes[-1]
    near = sizes[len(sizes) // 10] or largest / 100
    if largest <= WIDE * near:
        return
    axes.set_yscale("symlog", linthresh=near, linscale=0.4)
    axes.autoscale_view()
    low, high = axes.get_ylim()
    decades = range(math.floor(math.log10(near)), math.ceil(math.log10(largest)) + 1)
    steps = (1, 2, 5) if largest < 1000 * near else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps if step * 10.0**decade >= near]
    axes.yaxis.set_major_locator(
        FixedLocator([each for each in (*(-t for t in ticks), 0, *ticks) if low <= each <= high])
    )
