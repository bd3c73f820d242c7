"""Graphs and card of a run: at its end, and beside it while it goes on so that training does not wait."""

import subprocess
import sys
import time
import traceback
from pathlib import Path

from fluxflow_exp.console import Console
from fluxflow_exp.run.folder import RunFolder

EVERY_SECONDS = 60.0


class LiveReport:
    """Starts `python -m fluxflow_exp.report --graphs RUN` at a save, once a minute at most, never two at a time."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._started = time.monotonic()
        self._drawing: subprocess.Popen[bytes] | None = None

    def refresh(self) -> None:
        if time.monotonic() - self._started < EVERY_SECONDS or (self._drawing and self._drawing.poll() is None):
            return
        self._started = time.monotonic()
        command = [sys.executable, "-m", "fluxflow_exp.report", "--graphs", str(self.run)]
        self._drawing = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def wait(self) -> None:
        """Until nothing is being drawn: two writers would undo each other's pictures."""
        if self._drawing:
            self._drawing.wait()

    def end(self) -> None:
        """Let what is being drawn be: it would say of a run that ends here that it goes on."""
        if self._drawing and self._drawing.poll() is None:
            self._drawing.terminate()
            self._drawing.wait()


def draw_graphs(folder: RunFolder, console: Console) -> None:
    """Refresh the pictures in `graph/` from the metric rows. The run is complete without them."""
    try:
        from fluxflow_exp import plot  # matplotlib: half a second that a start does without

        written = plot.draw(folder.graph)
    except Exception as error:  # of fonts, of styles, of a version: none is worth a run
        _say_missing("The graphs", "plot", error, folder, console)
        return
    console.say(f"Graphs: {', '.join(path.name for path in written)}")


def write_card(folder: RunFolder, console: Console) -> None:
    """Leave `report.html`. The run is complete without it: what goes wrong is said, and where to see it."""
    from fluxflow_exp.report import command as report

    try:
        console.say(f"Run card: {report.write_card(folder)}")
    except Exception as error:
        _say_missing("The run card", "report", error, folder, console)


def _say_missing(what: str, command: str, error: Exception, folder: RunFolder, console: Console) -> None:
    console.log("".join(traceback.format_exception(error)))
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    console.say(
        f"{what} could not be written ({reason}); nothing else is missing. "
        f"{folder.log} has the traceback, and python -m fluxflow_exp.{command} {folder.path} tries again"
    )
