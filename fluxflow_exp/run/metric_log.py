"""Metric rows of a step: one JSON object a line, in `graph/training_metrics_<step>.jsonl`.

Rows are functions of the update, never of the clock; only `timestamp` and `extras` hold times. A resumed run drops
the rows after its checkpoint and writes them again, so that no row stands twice and none is missing.
"""

import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from fluxflow_exp import files
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import clock
from fluxflow_exp.run import written

ROW_EVERY, LEAST_ROWS = 20, 10  # updates between training rows, unless a step had fewer rows than that

Row = dict[str, Any]
Text = dict[str, str] | list[str] | str | None


class MetricLog:
    """Writes the rows of a step. What takes their file away while this goes on does not take the rows."""

    def __init__(self, path: Path, *, say: Callable[[str], None] = print) -> None:
        self.path, self.say = path, say
        self._file: BinaryIO | None = None  # kept open: what it holds outlives its name

    def rewind(self, update: int) -> list[Row]:
        """Keep the rows up to `update`; drop later ones, which are returned, and a torn last line."""
        rows = read_rows(self.path)
        self._file = None
        files.write_text(self.path, "".join(_line(row) for row in rows if row["global_step"] <= update))
        return [row for row in rows if row["global_step"] > update]

    def write(
        self,
        kind: str,
        *,
        update: int,
        epoch: int,
        batch: int,
        metrics: dict[str, float],
        learning_rates: dict[str, float] | None = None,
        extras: dict[str, float] | None = None,
        texts: dict[str, Text] | None = None,
    ) -> None:
        """Append a row of `kind` (train, held_out, held_out_raw, health, samples).

        `update` counts the step's updates, `epoch` from 1. `extras` of training rows: `seconds` of the step so far,
        all included, and `batch_time`, those of an update since the last row, with the wait for its batch, without
        evaluation, pictures and saves.
        `texts` may have `pictures`: file in `samples/` → what it shows; `tiles`: hashes of a sheet's single pictures
        in its order; `drawn`: with what they were made; and `warnings`: short code → what is wrong and what to try.
        """
        row = {
            "timestamp": clock.date(),
            "kind": kind,
            "epoch": epoch,
            "batch": batch,
            "global_step": update,
            "metrics": {name: _finite(value) for name, value in metrics.items()},
            "learning_rates": learning_rates or {},
            "extras": extras or {},
            **{name: found for name, found in (texts or {}).items() if found},
        }
        with files.naming(self.path):
            file = self._opened()
            file.write(_line(row).encode())
            file.flush()

    def sync(self) -> None:
        """Make the rows durable: a checkpoint must not outlive the rows before it."""
        if self._file is not None or self.path.exists():
            with files.naming(self.path):
                os.fsync(self._opened().fileno())

    def _opened(self) -> BinaryIO:
        """The file to append to; one that has been deleted since is put back."""
        if self._file is not None:
            with suppress(FileNotFoundError):
                if os.path.samestat(self.path.stat(), os.fstat(self._file.fileno())):
                    return self._file
            if not self.path.exists():
                self._file.seek(0)
                whole = self._file.read().decode()
                files.write_text(self.path, whole)
                self.say(f"{self.path} was deleted while this run goes on: its rows are written again")
            self._file.close()
        self._file = self.path.open("a+b")
        return self._file


class Window:
    """Means of metrics since the last row. Saved with the checkpoint: a row may span an interruption."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}

    def add(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            total = self.sums.setdefault(name, [0.0, 0.0])
            total[0] += value
            total[1] += 1

    def take(self) -> dict[str, float]:
        means = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return means


def row_every(asked: int | str, updates: int) -> int:
    """Updates between the training rows of a step of so many: as `asked`; "auto": so that they make a curve."""
    return min(ROW_EVERY, max(updates // LEAST_ROWS, 1)) if isinstance(asked, str) else asked


def read_rows(path: Path) -> list[Row]:
    """The whole rows of a metric file; a torn last line is left out, a missing file is empty.

    UserError: another line is no row.
    """
    return read_rows_from(path, 0)[0]


def salvage(path: Path) -> None:
    """Leave the rows of a damaged file that are whole; the file as it was is kept beside it."""
    whole = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        with suppress(ValueError):
            whole.append(_line(json.loads(line)))
    try:
        read_rows(path)
    except UserError:
        path.replace(path.with_name(f"{path.name}.damaged"))
        files.write_text(path, "".join(whole))


def read_rows_from(path: Path, offset: int) -> tuple[list[Row], int]:
    """The whole rows from a byte of the file on, and the byte after them."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        lines = [line for line in file if line.endswith(b"\n")]
    for number, line in enumerate(lines, start=1):
        wrong = written.row_problem(line)
        if wrong:
            raise UserError(f"{path} is damaged: line {number} in it is no row ({wrong})")
    return [json.loads(line) for line in lines], offset + sum(map(len, lines))


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
