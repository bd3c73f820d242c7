"""The runs of a comparison: found, and named in messages."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxflow_exp.errors import UserError
from fluxflow_exp.run import states
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.identity import flatten

CHOICES = "choices."  # before the name of a config group: which of its files a run was composed of
NAMED = 3  # runs that a message lists by name
SHOWN = 8  # keys that a message lists


@dataclass
class Run:
    folder: RunFolder
    values: dict[str, Any]  # the frozen configuration
    flat: dict[str, Any]  # the same by dotted key
    record: dict[str, Any]
    group: str = ""

    @property
    def seed(self) -> int:
        return int(self.values["seed"])

    @property
    def name(self) -> str:
        return str(self.folder.path)

    @property
    def finished(self) -> bool:
        return self.folder.summary.exists() and set(self.values["stage"]["steps"]) <= set(self.record["steps"])


def find(outs: Iterable[Path]) -> list[Run]:
    """The runs at or below `outs`, each once; damaged ones are left out, and said. UserError: there are no others."""
    runs: dict[Path, Run] = {}
    empty, found = [], []
    for out in outs:
        # One that was moved aside counts where it is named itself.
        folders = [RunFolder(out)] if RunFolder(out).exists() else states.runs_below(out)
        if not folders:
            empty.append(str(out))
        found += folders
    if empty:
        raise UserError(f"there is no run in {', '.join(empty)}; name run folders, or folders of them (a sweep)")
    for folder in states.whole(found):
        values = folder.frozen()
        runs.setdefault(folder.path.resolve(), Run(folder, values, dict(flatten(values)), folder.read_record()))
    return list(runs.values())


def listed(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
