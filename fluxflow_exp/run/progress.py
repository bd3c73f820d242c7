"""The progress of a run, so that of two copies the farther one is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fluxflow_exp.errors import UserError

if TYPE_CHECKING:
    from fluxflow_exp.run.folder import RunFolder


@dataclass(frozen=True, order=True)
class Progress:
    """Ordered: the more is done, the greater."""

    index: int = 0  # of the step that the newest whole checkpoint belongs to, from 1; 0: there is none
    update: int = 0  # of that checkpoint
    final: bool = False  # it is its step's last one
    finished: int = 0  # steps
    complete: bool = False  # the run has its summary
    step: str = field(default="", compare=False)

    def __str__(self) -> str:
        if self.complete:
            return "complete"
        return f"{self.step}, update {self.update}" if self.index else "its beginning"

    @classmethod
    def of(cls, checkpoints: Iterable[str], *, finished: int, complete: bool) -> Progress:
        """Return the progress of a run with the whole checkpoints of these file names."""
        from fluxflow_exp.run import checkpoint  # torch

        matches = filter(None, map(checkpoint.NAME.fullmatch, checkpoints))
        found = [(int(m["index"]), int(m["update"]), bool(m["final"]), m["step"]) for m in matches]
        index, update, final, step = max(found, default=(0, 0, False, ""))
        return cls(index, update, final, finished, complete, step)


def read(folder: RunFolder) -> Progress | None:
    """Return how far the run in `folder` is. None: there is none, or its configuration or record is not whole."""
    from fluxflow_exp.run import checkpoint  # torch

    if not folder.exists():
        return None
    try:
        folder.frozen()
        finished = len(folder.read_record()["steps"])
    except (UserError, KeyError, TypeError):
        return None
    newest = next(filter(checkpoint.is_intact, reversed(checkpoint.CheckpointStore(folder.checkpoints).paths())), None)
    return Progress.of([newest.name] if newest else [], finished=finished, complete=folder.summary.exists())
