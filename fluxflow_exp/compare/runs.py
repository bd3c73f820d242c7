"""The runs of a comparison: found, and named in messages."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxflow_exp.errors import few
from fluxflow_exp.run import lookup, states
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
    """The runs that `outs` mean, each once; damaged ones are left out, and said. UserError: there are no others."""
    found = []
    for folder in states.whole(lookup.several(outs)):
        values = folder.frozen()
        found.append(Run(folder, values, dict(flatten(values)), folder.read_record()))
    return found


def listed(names: list[str]) -> str:
    return few(names, NAMED)
