"""Graphs of a run from its metric rows: `graph/*.png` and `training_summary.txt`.

Steps are laid one after another along the axis of updates. `python -m fluxflow_exp.plot RUN…` draws them at any time,
while a run goes on as well.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fluxflow_exp import files
from fluxflow_exp.console import fail
from fluxflow_exp.errors import UserError
from fluxflow_exp.monitor import health
from fluxflow_exp.monitor.metrics import METRICS, higher_is_better
from fluxflow_exp.preflight.idle import idle_problems
from fluxflow_exp.report import figures
from fluxflow_exp.report.figures import Axes, Figure, LogLocator, NullLocator
from fluxflow_exp.report.panels import Track
from fluxflow_exp.run import failures, lookup
from fluxflow_exp.run.metric_log import Row, read_rows

Series = dict[str, tuple[list[float], list[float]]]  # name → updates, values

ROWS = "training_metrics_*.jsonl"
LOSSES = ("vae", "lpips", "flow", "g", "d", "r1")
COMPARED = ("vae", "kl", "lpips", "g", "d", "flow", "val_psnr", "val_flow", "prompt_accuracy")
LETTER = 0.016  # of a panel's width, in the size of the names of steps


@failures.command
def cli() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.plot",
        description="Draw the graphs of runs into their graph/ folders; of several runs also one picture of all.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run or sweep folders, e.g. outputs/vae")
    parser.add_argument("--overlay", type=Path, help="picture of several runs, a line each (default: comparison.png)")
    where = "draw there, each of several runs in a folder of its name"
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=where)
    arguments = parser.parse_args()
    runs, damaged = _runs(arguments.runs)
    graphs = list(runs.values())
    empty = [run for run, graph in zip(runs, graphs, strict=True) if not _steps(graph)]
    if empty:
        names = ", ".join(map(str, empty))
        raise UserError(f"no metric rows (graph/training_metrics_*.jsonl) in {names}")
    idle = idle_problems({"--overlay": arguments.overlay}, acts=len(graphs) > 1, needs="several runs")
    if idle:
        raise UserError(*idle)
    for run, graph in runs.items():
        into = arguments.output and (arguments.output / run.name if len(runs) > 1 else arguments.output)
        with failures.output("--output FOLDER draws elsewhere"):
            print("\n".join(map(str, draw(graph, into))))
    if len(graphs) > 1:
        print(overlay({str(run): graph for run, graph in runs.items()}, arguments.overlay or Path("comparison.png")))
    if damaged:
        fail(damaged)
    return (1 if runs else 2) if damaged else 0


def _runs(folders: list[Path]) -> tuple[dict[Path, Path], list[str]]:
    """Run → its folder of rows, of each run or sweep; and what is wrong with rows that cannot be read."""
    graphs, damaged = {}, []
    for folder in folders:
        one = folder.name == "graph" or (folder / "graph").is_dir()
        below = [folder] if one else [run.path for run in lookup.several([folder])]
        for run in [path for path in below if any((path / "graph").glob(ROWS))] or below:
            graph = run if run.name == "graph" else run / "graph"
            try:
                _steps(graph)
                graphs[run] = graph
            except UserError as error:
                damaged.append(str(error))
    return graphs, damaged


@figures.settings()
def overlay(graphs: dict[str, Path], output: Path) -> Path:
    """One picture with a panel a metric and a line a run; `graphs`: label → graph folder."""
    found: dict[str, Series] = {}
    for label, graph in graphs.items():
        steps = _steps(graph)
        found[label] = {**_series(steps, "train", "metrics"), **_series(steps, "held_out", "metrics")}
    names = [name for name in COMPARED if any(name in series for series in found.values())]
    columns = min(3, max(len(names), 1))
    figure, grid = _grid(-(-len(names) // columns) or 1, columns, size=(6 * columns, 12))
    for axes in grid.flat[len(names) :]:
        axes.axis("off")
    for axes, name in zip(grid.flat, names, strict=False):
        lines = {label: series[name] for label, series in found.items() if name in series}
        _lines(axes, lines, tuple(lines), name, {}, log=not higher_is_better(name))
    return _save(_rendered(figure), output)


@figures.settings()
def draw(graph: Path, output: Path | None = None) -> list[Path]:
    """Draw every graph from the metric files in the folder `graph`, into it or `output`; returns what was written."""
    steps, output = _steps(graph), output or graph
    train = _series(steps, "train", "metrics")
    held_out = _series(steps, "held_out", "metrics")
    rates = _series(steps, "train", "learning_rates")
    extras = _series(steps, "train", "extras")
    marks = Track(steps).offsets
    panels: dict[str, Callable[[Axes], None]] = {
        "training_losses": lambda axes: _lines(axes, train, LOSSES, "loss", marks),
        "kl_loss": lambda axes: _divergence(axes, train, marks),
        "learning_rates": lambda axes: _lines(axes, rates, tuple(rates), "learning rate", marks),
        "batch_times": lambda axes: _lines(axes, extras, ("batch_time",), "seconds a batch", marks),
    }
    figure, grid = _grid(2, 3, size=(18, 9))
    for axes, panel in zip(grid.flat, panels.values(), strict=False):
        panel(axes)
    accuracies = tuple(n for n in held_out if n.startswith("prompt_accuracy"))
    _lines(grid[1, 1], held_out, ("val_psnr",), f"held-out {METRICS['val_psnr'].label}", marks, log=False)
    shown = ("val_flow", "val_l1")
    _lines(grid[1, 2], held_out, shown, "held-out loss", marks)
    overview = _rendered(figure)
    cells = {name: _cell(overview, *divmod(index, 3)) for index, name in enumerate(panels)}
    written = [_save(cell, output / f"{name}.png") for name, cell in cells.items()]
    written.append(_save(overview, output / "training_overview.png"))
    vitals = _series(steps, "health", "metrics")
    if vitals:
        written.append(_draw_health(vitals, marks, output / "health.png"))
    text = _summary({**train, **{n: held_out[n] for n in (*shown, "val_psnr", *accuracies) if n in held_out}})
    files.write_text(output / "training_summary.txt", text)
    return [*written, output / "training_summary.txt"]


def _draw_health(vitals: Series, marks: dict[str, int], path: Path) -> Path:
    """The numbers of `health` rows, with the limits beyond which they are warned of as dashed lines."""
    figure, grid = _grid(2, 3, size=(18, 9))
    shares = ("dead_activations", "dead_in_one")
    panels: list[tuple[tuple[str, ...], str, tuple[float, ...], bool]] = [
        (("logit_gap", "hinge_loss"), "discriminator, held out", (health.DISCRIMINATOR_WINS,), False),
        (("gradient_ratio", "adaptive_weight"), "discriminator : generator", health.GRADIENT_RATIOS, True),
        (("active_units",), "active latent channels", (), False),
        (("latent_std", "latent_max"), "latents", (health.LATENT_STD, health.LATENT_MAX), True),
        (shares, "share of channels that never change", (health.DEAD, health.DEAD_IN_ONE), False),
        (("loss_spike",), "largest robust score of a loss", (health.SPIKE,), False),
    ]
    for axes, (names, label, limits, log) in zip(grid.flat, panels, strict=True):
        _lines(axes, vitals, names, label, marks, log=log, limits=limits)
    return _save(_rendered(figure), path)


def _steps(graph: Path) -> dict[str, list[Row]]:
    """Rows by step, oldest step first."""
    paths = graph.glob(ROWS)
    steps = {p.stem.removeprefix("training_metrics_"): read_rows(p) for p in paths}
    return dict(sorted(((n, r) for n, r in steps.items() if r), key=lambda pair: pair[1][0]["timestamp"]))


def _series(steps: dict[str, list[Row]], kind: str, field: str) -> Series:
    found: Series = {}
    for step, offset in Track(steps).offsets.items():
        for row in steps[step]:
            for name, value in row[field].items():
                if row["kind"] == kind and value is not None:
                    updates, values = found.setdefault(name, ([], []))
                    updates.append(offset + row["global_step"])
                    values.append(value)
    return found


def _lines(
    axes: Axes,
    series: Series,
    names: tuple[str, ...],
    label: str,
    marks: dict[str, int],
    *,
    log: bool = True,
    limits: tuple[float, ...] = (),
) -> None:
    """Draw the series called `names` that there are, the beginnings of steps, and `limits` as dashed lines."""
    present = [name for name in names if name in series]
    for name in present:
        axes.plot(
            *series[name],
            label=figures.label(name),
            linewidth=1.2,
            marker="." if len(series[name][0]) < 30 else "",
        )
    for limit in limits if present else ():
        axes.axhline(limit, color="tab:red", linestyle="--", linewidth=0.9)
    if log and present:
        values = [*limits, *(value for name in present for value in series[name][1])]
        _logarithmic(axes, min(values), max(values))
    left, right = axes.get_xlim()
    free = left  # where the last name ends
    for name, position in marks.items():
        axes.axvline(position, color="0.8", linewidth=0.8)
        if position < free:
            continue
        free = position + LETTER * (len(name) + 1) * (right - left)
        axes.text(position, 1.01, f" {name}", transform=axes.get_xaxis_transform(), fontsize=8, color="0.4")
    axes.set_xlabel("optimizer updates")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    if present:
        axes.legend(fontsize=8)
    else:
        axes.text(0.5, 0.5, "nothing logged", transform=axes.transAxes, ha="center", color="0.5")


def _divergence(axes: Axes, train: Series, marks: dict[str, int]) -> None:
    """The divergence, and on the right β, the weight that it has."""
    _lines(axes, train, ("kl",), METRICS["kl"].label, marks)
    if "kl_beta" not in train:
        return
    right = axes.twinx()
    right.plot(*train["kl_beta"], color="tab:orange", linewidth=1.0, linestyle="--", label="β (right)")
    right.set_ylim(0, 1.1 * max(train["kl_beta"][1]) or 1)
    right.yaxis.set_major_formatter("{x:.2g}")
    # Inside, since the margin is the next panel's.
    right.tick_params(direction="in", pad=-32, labelsize=7, colors="tab:orange")
    right.legend(fontsize=8, loc="lower right")
    axes.legend(fontsize=8, loc="lower center")


def _grid(rows: int, columns: int, *, size: tuple[float, float]) -> tuple[Figure, Any]:
    """An empty picture of `size` inches, and its panels as an array (rows, columns)."""
    width, height = size
    figure = Figure(figsize=size, dpi=110)
    # Margins in inches that every label fits into: tight_layout draws all of a picture once more to measure them.
    grid = figure.subplots(rows, columns, squeeze=False)
    inner = (width / columns - 1.25, height / rows - 0.8)
    figure.subplots_adjust(
        left=0.8 / width, right=1 - 0.45 / width, bottom=0.5 / height, top=1 - 0.3 / height,
        wspace=1.25 / inner[0], hspace=0.8 / inner[1],
    )  # fmt: skip
    return figure, grid


def _logarithmic(axes: Axes, smallest: float, largest: float) -> None:
    """Plain numbers at the major ticks alone: typesetting powers of ten took most of the time that a picture took."""
    # The generator's hinge loss is negative when it wins; a symmetric scale keeps it in the picture.
    axes.set_yscale("log" if smallest > 0 else "symlog")
    axes.yaxis.set_major_formatter("{x:.4g}")
    axes.yaxis.set_minor_locator(NullLocator())
    if smallest > 0:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if largest < 300 * smallest else (1,)))


def _rendered(figure: Figure) -> Image.Image:
    canvas = figures.canvas(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba()))


def _cell(picture: Image.Image, row: int, column: int) -> Image.Image:
    """A panel of a rendered grid of 2 x 3, as a picture of its own that need not be drawn again."""
    width, height = picture.width // 3, picture.height // 2
    return picture.crop((column * width, row * height, (column + 1) * width, (row + 1) * height))


def _save(picture: Image.Image, path: Path) -> Path:
    files.write_atomically(path, lambda temporary: picture.save(temporary, format="png"))
    return path


def _summary(series: Series) -> str:
    head = f"{'metric':<28}{'first':>12}{'last':>12}{'min':>12}{'max':>12}{'mean':>12}{'std':>12}\n"
    lines = [head]
    for name, (_, values) in series.items():
        columns = (
            values[0],
            values[-1],
            min(values),
            max(values),
            statistics.fmean(values),
            statistics.pstdev(values),
        )
        lines.append(f"{name:<28}" + "".join(f"{value:>12.5g}" for value in columns) + "\n")
    return "".join(lines)


if __name__ == "__main__":
    sys.exit(cli())
