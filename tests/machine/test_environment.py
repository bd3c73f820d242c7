"""What is exported, printed to or drawn with around a command changes neither its result nor its end."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp import plot
from fluxflow_exp.machine import environment
from fluxflow_exp.run.metric_log import MetricLog
from tests.conftest import toy
from tests.helpers.children import CONTEXT, finish

ROWS = (10, 20, 30)


def run_with_rows(folder: Path) -> Path:
    log = MetricLog(folder / "graph" / "training_metrics_vae.jsonl")
    log.path.parent.mkdir(parents=True)
    for update in ROWS:
        log.write("train", update=update, epoch=1, batch=update, metrics={"vae": 1 / update, "kl": 2.0})
    return folder


@pytest.mark.usefixtures("drawn")
def test_a_notebooks_backend_and_a_users_style_change_no_graph(tmp_path: Path) -> None:
    """The two stop what matplotlib draws by itself: a backend that is not installed, and TeX that is not there."""
    run = run_with_rows(tmp_path / "run")
    expected = {path.name: path.read_bytes() for path in plot.draw(run / "graph")}
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nlines.color: red\nfigure.dpi: 30\naxes.grid: True\n")
    exported = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    command = [sys.executable, "-m", "fluxflow_exp.plot", "run"]
    done = subprocess.run(command, cwd=tmp_path, env=exported, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in (run / "graph").glob("*.[pt]*")} == expected


@pytest.mark.parametrize("way", ["nobody reads", "the disk is full", "another alphabet", "closed"])
def test_what_cannot_be_printed_is_no_error(tmp_path: Path, way: str) -> None:
    child = CONTEXT.Process(target=_print, args=(way, tmp_path))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    said = (tmp_path / "err").read_text()
    assert (tmp_path / "after").read_text() == "kept"
    if way == "another alphabet":
        assert (tmp_path / "out").read_text() == "\\u03b2 10 \\u2026 \\udcff\n" * 2
    assert said == (
        "error: what is said here cannot be written any more: No space left on device\n" if "disk" in way else ""
    )


def _print(way: str, folder: Path) -> None:
    """Two lines on standard output, and a file written after them."""
    os.dup2(os.open(folder / "err", os.O_CREAT | os.O_WRONLY), 2)
    if way == "nobody reads":
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
    elif way == "the disk is full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    elif way == "closed":
        os.close(1)
    else:
        os.dup2(os.open(folder / "out", os.O_CREAT | os.O_WRONLY), 1)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "ascii") if way != "closed" else None
    environment.settle()
    with (folder / "after").open("w") as file:
        for _ in range(2):
            print("\u03b2 10 \u2026 \udcff", flush=True)
        file.write("kept")
    assert environment.output_lost() == ("disk" in way)


def test_a_graph_that_cannot_be_drawn_costs_no_run(tmp_path: Path) -> None:
    log = tmp_path / "log"
    values = toy(tmp_path, "stage.steps.vae.n_epochs=1", "stage.steps.vae.batch_size=8", stage="vae")
    assert finish(values, log, _cannot_draw) == 0, log.read_text()
    run = tmp_path / "vae"
    assert (run / "weights" / "final.safetensors").exists()
    assert (run / "summary.json").exists()
    assert not (run / "failure.json").exists()
    assert "The graphs could not be written (RuntimeError: no such font); nothing else is missing" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert "Traceback" in (run / "log.txt").read_text()


def _cannot_draw() -> None:
    def draw(graph: Path) -> None:
        raise RuntimeError("no such\nfont")

    plot.draw = draw


def test_names_with_dollars_and_underscores_stand_in_legends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are matplotlib's own signs: a formula, and a line that is left out."""
    drawn: list[Any] = []
    rendered = plot._rendered
    monkeypatch.setattr(plot, "_rendered", lambda figure: (drawn.append(figure), rendered(figure))[1])
    names = ["_a", "$x$_{", "plain"]
    plot.overlay({name: run_with_rows(tmp_path / name) / "graph" for name in names}, tmp_path / "all.png")
    legend = drawn[0].axes[0].get_legend().get_texts()
    assert [text.get_text().strip() for text in legend] == names
    assert not any(text.get_parse_math() for text in legend)


@pytest.mark.parametrize(("given", "kept"), [("0", None), ("abc", None), ("", None), ("120", "120")])
def test_a_width_that_is_none_is_not_believed(monkeypatch: pytest.MonkeyPatch, given: str, kept: str | None) -> None:
    monkeypatch.setenv("COLUMNS", given)
    environment.settle()
    assert os.environ.get("COLUMNS") == kept
