"""Graphs and card of a run that is still going on, made beside it so that training does not wait."""

import subprocess
import sys
import time
from pathlib import Path

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
