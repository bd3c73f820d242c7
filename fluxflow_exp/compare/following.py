"""Keys that differ between runs because the compared one does: parts of what it chooses, and what reads it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fluxflow_exp.compare.runs import Run

ABSENT = "(absent)"
STEPS = "stage.steps."
CHOICES = "choices."  # before the name of a config group: which of its files a run was composed of
# Keys that read another one under another name; all others read their like (model.expander.activation, …).
READS = {"lr": "learning_rate"}


def following(runs: list[Run], keys: Iterable[str], by: str) -> list[str]:
    """Those of `keys` that follow `by`."""
    keys = list(keys)
    sources = {by, *(key for key in keys if _belongs(runs, key, by))}
    return [key for key in keys if key in sources or any(_copies(runs, key, source) for source in sources)]


def _belongs(runs: list[Run], key: str, by: str) -> bool:
    """Whether `by` is a choice (a config group, or a name as model.name) and `key` is part of what is chosen by it."""
    section, _, last = by.rpartition(".")
    if not by.startswith(CHOICES):
        return last == "name" and bool(section) and key.startswith(f"{section}.")
    group = by.removeprefix(CHOICES).replace("/", ".")
    if key.startswith(f"{group}."):
        return True
    parts = key.split(".")  # stage.steps.STEP.optimizers.PLAYER.lr: a player's own, which follows the run's
    if not key.startswith(STEPS) or parts[3] != f"{group}s" or len(parts) < 6:
        return False
    followed = ".".join([group, *parts[5:]])
    return all(run.flat.get(key, ABSENT) == run.flat.get(followed, ABSENT) for run in runs if parts[2] in _steps(run))


def _steps(run: Run) -> dict[str, Any]:
    steps: dict[str, Any] = run.values["stage"]["steps"]
    return steps


def _copies(runs: list[Run], key: str, source: str) -> bool:
    """Whether `key` has the value of `source` in every run, and the name that a key which reads it has."""
    mine, theirs = key.rpartition(".")[2], source.rpartition(".")[2]
    return READS.get(mine, mine) in (theirs, READS.get(theirs, theirs)) and all(
        run.flat.get(key, ABSENT) == run.flat.get(source, ABSENT) for run in runs
    )
