"""Graphs of a run from its metric rows: `graph/*.png` and `training_summary.txt`.

Steps are laid one after another along the axis of updates. `python -m fluxflow_exp.plot RUN…` draws them at any time,
while a run goes on as well.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fluxflow_exp import files, health
from fluxflow_exp.tracking import Row, read_rows

Series = dict[str, tuple[list[float], list[float]]]  # name → updates, values

LOSSES = ("vae", "lpips", "flow", "g", "d", "r1")
COMPARED = ("vae", "kl", "lpips", "g", "d", "flow", "val_psnr", "val_flow", "prompt_accuracy")


def cli() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.plot",
        description="Draw the graphs of runs into their graph/ folders; of several runs also one picture of all.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, e.g. outputs/quickstart")
    parser.add_argument(
        "--overlay", type=Path, default=Path("comparison.png"), help="picture of several runs, one line a run"
    )
    arguments = parser.parse_args()
    graphs = [run if run.name == "graph" else run / "graph" for run in arguments.runs]
    empty = [run for run, graph in zip(arguments.runs, graphs, strict=True) if not _steps(graph)]
    if empty:
        names = ", ".join(map(str, empty))
        print(f"error: no metric rows (graph/training_metrics_*.jsonl) in {names}; name a run folder", file=sys.stderr)
        sys.exit(2)
    for graph in graphs:
        for path in draw(graph):
            print(path)
    if len(graphs) > 1:
        print(overlay({str(run): graph for run, graph in zip(arguments.runs, graphs, strict=True)}, arguments.overlay))


def overlay(graphs: dict[str, Path], output: Path) -> Path:
    """One picture with a panel a metric and a line a run; `graphs`: label → graph folder."""
    found: dict[str, Series] = {}
    for label, graph in graphs.items():
        steps = _steps(graph)
        found[label] = {**_series(steps, "train", "metrics"), **_series(steps, "held_out", "metrics")}
    names = [name for name in COMPARED if any(name in series for series in found.values())]
    columns = min(3, max(len(names), 1))
    figure, grid = plt.subplots(-(-len(names) // columns) or 1, columns, figsize=(6 * columns, 12), squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.axis("off")
    for axes, name in zip(grid.flat, names, strict=False):
        lines = {label: series[name] for label, series in found.items() if name in series}
        _lines(axes, lines, tuple(lines), name, [], log=not name.startswith(("val_psnr", "prompt")))
    return _save(figure, output)


def draw(graph: Path) -> list[Path]:
    """Draw every graph from the metric files in the folder `graph`; returns what was written."""
    steps = _steps(graph)
    train = _series(steps, "train", "metrics")
    held_out = _series(steps, "held_out", "metrics")
    rates = _series(steps, "train", "learning_rates")
    extras = _series(steps, "train", "extras")
    marks = _marks(steps)
    panels: dict[str, Callable[[Axes], None]] = {
        "training_losses": lambda axes: _lines(axes, train, LOSSES, "loss", marks),
        "kl_loss": lambda axes: _lines(axes, train, ("kl",), "KL (nats a position)", marks),
        "learning_rates": lambda axes: _lines(axes, rates, tuple(rates), "learning rate", marks),
        "batch_times": lambda axes: _lines(axes, extras, ("batch_time",), "seconds a batch", marks),
    }
    written = []
    for name, panel in panels.items():
        figure, axes = plt.subplots(figsize=(8, 4.5))
        panel(axes)
        written.append(_save(figure, graph / f"{name}.png"))
    figure, grid = plt.subplots(2, 3, figsize=(18, 9))
    for axes, panel in zip(grid.flat, panels.values(), strict=False):
        panel(axes)
    accuracies = tuple(n for n in held_out if n.startswith("prompt_accuracy"))
    _lines(grid[1, 1], held_out, ("val_psnr",), "held-out PSNR (dB)", marks, log=False)
    shown = ("val_flow", "val_l1")
    _lines(grid[1, 2], held_out, shown, "held-out loss", marks)
    written.append(_save(figure, graph / "training_overview.png"))
    vitals = _series(steps, "health", "metrics")
    if vitals:
        written.append(_draw_health(vitals, marks, graph / "health.png"))
    text = _summary({**train, **{n: held_out[n] for n in (*shown, "val_psnr", *accuracies) if n in held_out}})
    files.write_text(graph / "training_summary.txt", text)
    return [*written, graph / "training_summary.txt"]


def _draw_health(vitals: Series, marks: list[tuple[int, str]], path: Path) -> Path:
    """The numbers of `health` rows, with the limits beyond which they are warned of as dashed lines."""
    figure, grid = plt.subplots(2, 3, figsize=(18, 9))
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
        _lines(axes, vitals, names, label, marks, log=log)
        if any(name in vitals for name in names):
            for limit in limits:
                axes.axhline(limit, color="tab:red", linestyle="--", linewidth=0.9)
    return _save(figure, path)


def _steps(graph: Path) -> dict[str, list[Row]]:
    """Rows by step, oldest step first."""
    paths = graph.glob("training_metrics_*.jsonl")
    steps = {p.stem.removeprefix("training_metrics_"): read_rows(p) for p in paths}
    return dict(sorted(((n, r) for n, r in steps.items() if r), key=lambda pair: pair[1][0]["timestamp"]))


def _series(steps: dict[str, list[Row]], kind: str, field: str) -> Series:
    found: Series = {}
    offset = 0
    for rows in steps.values():
        for row in rows:
            if row["kind"] != kind:
                continue
            for name, value in row[field].items():
                if value is not None:
                    updates, values = found.setdefault(name, ([], []))
                    updates.append(offset + row["global_step"])
                    values.append(value)
        offset += rows[-1]["global_step"]
    return found


def _marks(steps: dict[str, list[Row]]) -> list[tuple[int, str]]:
    marks, offset = [], 0
    for name, rows in steps.items():
        marks.append((offset, name))
        offset += rows[-1]["global_step"]
    return marks


def _lines(
    axes: Axes,
    series: Series,
    names: tuple[str, ...],
    label: str,
    marks: list[tuple[int, str]],
    *,
    log: bool = True,
) -> None:
    present = [name for name in names if name in series]
    for name in present:
        axes.plot(
            *series[name],
            label=name,
            linewidth=1.2,
            marker="." if len(series[name][0]) < 30 else "",
        )
    smallest = min((min(series[name][1]) for name in present), default=1.0)
    # The generator's hinge loss is negative when it wins; a symmetric scale keeps it in the picture.
    if log and present:
        axes.set_yscale("log" if smallest > 0 else "symlog")
    for position, name in marks:
        axes.axvline(position, color="0.8", linewidth=0.8)
        axes.text(
            position,
            1.01,
            f" {name}",
            transform=axes.get_xaxis_transform(),
            fontsize=8,
            color="0.4",
        )
    axes.set_xlabel("optimizer updates")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    if present:
        axes.legend(fontsize=8)
    else:
        axes.text(0.5, 0.5, "nothing logged", transform=axes.transAxes, ha="center", color="0.5")


def _save(figure: Figure, path: Path) -> Path:
    figure.tight_layout()
    files.write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
    plt.close(figure)
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
    cli()
