"""The forest plot and the curves as PNG, for Markdown and W&B, which show no SVG of one's own."""

from pathlib import Path
from typing import Any

from fluxflow_exp import files
from fluxflow_exp.monitor.metrics import named
from fluxflow_exp.study.answer import Curves, StudyAnswer
from fluxflow_exp.study.forest import Forest, forest

FOREST, CURVES = "forest.png", "curves.png"
COLOURS = {"better": "tab:green", "worse": "tab:red", "few": "tab:orange", "failed": "tab:red"}
DPI = 110


def draw(answer: StudyAnswer, folder: Path) -> list[Path]:
    """Write the plots into `folder`; curves only where there are some."""
    plots = [forest(answer, outcome) for outcome in answer.outcomes]
    rows = [len(plot.rows) for plot in plots]
    made = [_figure(folder / FOREST, plots, _forest, heights=[0.9 + 0.35 * count for count in rows])]
    if answer.curves:
        colours = {arm.name: f"C{place % 10}" for place, arm in enumerate(answer.arms)}
        panels = [(curves, colours) for curves in answer.curves]
        made.append(_figure(folder / CURVES, panels, _curves, heights=[3.2] * len(panels)))
    return made


def _figure(path: Path, parts: list[Any], fill: Any, *, heights: list[float]) -> Path:
    """One plot of `parts` below another, each filled by `fill`; `heights` in inches."""
    from fluxflow_exp.report import figures  # matplotlib: half a second

    with figures.settings():
        figure = figures.Figure(figsize=(8, sum(heights)))
        canvas = figures.canvas(figure)
        axes = figure.subplots(len(parts), squeeze=False, gridspec_kw={"height_ratios": heights})
        for each, part in zip(axes[:, 0], parts, strict=True):
            fill(each, part)
        figure.tight_layout()
        files.write_atomically(path, lambda temporary: canvas.print_figure(temporary, dpi=DPI, format="png"))
    return path


def _forest(axes: Any, plot: Forest) -> None:
    if plot.small:
        axes.axvspan(*plot.small, color="0.92")
    axes.axvline(plot.zero, color="0.4", linewidth=0.9)
    for at, row in enumerate(plot.rows):
        colour = COLOURS.get(row.verdict.kind, "0.45")
        if row.low is not None:
            axes.plot([row.low, row.high], [at, at], color=colour, linewidth=2)
        if row.mean is not None:
            axes.plot(row.mean, at, "o", color=colour)
        axes.text(101, at, f"{row.difference} · {row.verdict.text}", va="center", fontsize=8, color=colour)
    axes.set(xlim=(0, 100), ylim=(len(plot.rows) - 0.5, -0.5), yticks=range(len(plot.rows)))
    axes.set_yticklabels([row.arm for row in plot.rows])
    axes.set_xticks(plot.grid, [text for _, text in plot.ticks])
    axes.set_xlabel(f"← {plot.left}      difference in {plot.title}      {plot.right} →", fontsize=8)


def _curves(axes: Any, part: tuple[Curves, dict[str, str]]) -> None:
    from fluxflow_exp.report import figures

    curves, colours = part
    for line in curves.lines:
        colour = colours[line.arm]
        axes.plot(line.x, line.mean, color=colour, label=figures.label(line.arm), linewidth=1.2)
        if line.low and line.high:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("images seen" if curves.axis == "images" else curves.axis)
    axes.set_ylabel(named(curves.metric).label)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
