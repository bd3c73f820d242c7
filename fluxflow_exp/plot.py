"""Graphs of a run from its metric rows: `graph/*.png` and `training_summary.txt`.

Steps are laid one after another along the axis of updates. `python -m fluxflow_exp.plot RUN…` draws them at any time,
while a run goes on as well.
"""

import argparse
import statistics
import sys
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
from fluxflow_exp.report import curves, figures
from fluxflow_exp.report.curves import Panel, Series
from fluxflow_exp.report.figures import Figure
from fluxflow_exp.report.panels import Track
from fluxflow_exp.run import failures, lookup
from fluxflow_exp.run.metric_log import Row, read_rows

ROWS = "training_metrics_*.jsonl"
LOSSES = ("vae", "lpips", "flow", "g", "d", "r1")
COMPARED = ("vae", "kl", "lpips", "g", "d", "flow", "val_psnr", "val_flow", "prompt_accuracy")
PANEL = (6.0, 4.5)  # inches
# A panel's margins in inches, that every label fits into: tight_layout draws a picture once more to measure them.
LEFT, RIGHT, BOTTOM, TOP = 1.15, 0.6, 0.5, 0.55


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
    panels = []
    for name in COMPARED:
        lines = {label: series[name] for label, series in found.items() if name in series}
        panels.append(Panel(name, lines, tuple(lines), log=not higher_is_better(name)))
    return _save(_picture(panels, {})[0], output)


@figures.settings()
def draw(graph: Path, output: Path | None = None) -> list[Path]:
    """Draw every graph from the metric files in the folder `graph`, into it or `output`; returns what was written.

    What nothing was logged of has no panel and no file.
    """
    steps, output = _steps(graph), output or graph
    train = _series(steps, "train", "metrics")
    held_out = _series(steps, "held_out", "metrics")
    rates = _series(steps, "train", "learning_rates")
    extras = _series(steps, "train", "extras")
    marks = Track(steps).offsets
    accuracies = tuple(n for n in held_out if n.startswith("prompt_accuracy"))
    panels = [
        Panel("loss", train, LOSSES, file="training_losses"),
        Panel(METRICS["kl"].label, train, ("kl",), right=("β", "kl_beta"), file="kl_loss"),
        Panel("learning rate", rates, tuple(rates), file="learning_rates"),
        Panel("seconds a batch", extras, ("batch_time",), file="batch_times"),
        Panel(f"held-out {METRICS['val_psnr'].label}", held_out, ("val_psnr",), log=False),
        Panel("held-out loss", held_out, ("val_flow", "val_l1")),
    ]
    overview, cells = _picture(panels, marks)
    written = [_save(cell, output / f"{panel.file}.png") for panel, cell in cells if panel.file]
    if cells:
        written.append(_save(overview, output / "training_overview.png"))
    vitals = _series(steps, "health", "metrics")
    if vitals:
        written.append(_save(_picture(_health(vitals), marks)[0], output / "health.png"))
    shown = ("val_flow", "val_l1", "val_psnr", *accuracies)
    text = _summary({**train, **{n: held_out[n] for n in shown if n in held_out}})
    files.write_text(output / "training_summary.txt", text)
    return [*written, output / "training_summary.txt"]


def _health(vitals: Series) -> list[Panel]:
    """The numbers of `health` rows, with the limits beyond which they are warned of."""
    shares = ("dead_activations", "dead_in_one")
    wins, dead = (health.DISCRIMINATOR_WINS,), (health.DEAD, health.DEAD_IN_ONE)
    return [
        Panel("discriminator, held out", vitals, ("logit_gap", "hinge_loss"), log=False, limits=wins),
        Panel(
            "discriminator : generator", vitals, ("gradient_ratio", "adaptive_weight"), limits=health.GRADIENT_RATIOS
        ),
        Panel("active latent channels", vitals, ("active_units",), log=False),
        Panel("latents", vitals, ("latent_std", "latent_max"), limits=(health.LATENT_STD, health.LATENT_MAX)),
        Panel("share of channels that never change", vitals, shares, log=False, limits=dead),
        Panel("largest rise of a loss, robust deviations", vitals, ("loss_spike",), log=False, limits=(health.SPIKE,)),
    ]


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


def _picture(panels: list[Panel], marks: dict[str, int]) -> tuple[Image.Image, list[tuple[Panel, Image.Image]]]:
    """One picture of those of `panels` that something was logged of, and each with its part of it."""
    shown = [panel for panel in panels if any(name in panel.series for name in panel.names)]
    columns = 2 if len(shown) == 4 else min(3, max(len(shown), 1))
    figure, grid = _grid(-(-len(shown) // columns) or 1, columns)
    for axes in grid.flat[len(shown) :]:
        axes.axis("off")
    for axes, panel in zip(grid.flat, shown, strict=False):
        curves.draw(axes, panel, marks)
    picture = _rendered(figure)
    width, height = picture.width // columns, picture.height // len(grid)
    places = [divmod(index, columns) for index in range(len(shown))]
    boxes = [(column * width, row * height, (column + 1) * width, (row + 1) * height) for row, column in places]
    return picture, [(panel, picture.crop(box)) for panel, box in zip(shown, boxes, strict=True)]


def _grid(rows: int, columns: int) -> tuple[Figure, Any]:
    """An empty picture, and its panels as an array (rows, columns)."""
    width, height = PANEL
    figure = Figure(figsize=(columns * width, rows * height), dpi=110)
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=LEFT / width / columns, right=1 - RIGHT / width / columns,
        bottom=BOTTOM / height / rows, top=1 - TOP / height / rows,
        wspace=(LEFT + RIGHT) / (width - LEFT - RIGHT), hspace=(BOTTOM + TOP) / (height - BOTTOM - TOP),
    )  # fmt: skip
    return figure, grid


def _rendered(figure: Figure) -> Image.Image:
    canvas = figures.canvas(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba()))


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
