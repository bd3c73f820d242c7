"""States of runs, read from their folders: new, queued, running, done, interrupted, failed, stale or damaged."""

import os
import shutil
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxflow_exp import files
from fluxflow_exp.errors import UserError, few
from fluxflow_exp.machine import slurm
from fluxflow_exp.machine.slurm import JobState
from fluxflow_exp.run import failures, inputs, refusals
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import read_rows

NEW, QUEUED, RUNNING = "new", "queued", "running"
DONE, INTERRUPTED, FAILED, STALE, DAMAGED = "done", "interrupted", "failed", "stale", "damaged"
TO_RUN = (NEW, INTERRUPTED, FAILED)
SHOWN_CHANGES = 3


@dataclass
class Entry:
    """A run's state, and what there is to say about it."""

    state: str
    note: str = ""


def whole(folders: list[RunFolder]) -> list[RunFolder]:
    """Return those of `folders` that can be read, and print the others. UserError: none can."""
    found, damaged = [], []
    for folder in folders:
        why = damage(folder)
        if why is None:
            found.append(folder)
        else:
            damaged.append(f"{folder.path} is damaged: {why}")
    if damaged and not found:
        raise UserError(*damaged)
    for each in damaged:
        print(f"left out: {each}", file=sys.stderr)
    return found


def damage(folder: RunFolder) -> str | None:
    """Say why a run's record or configuration cannot be read; None: they can."""
    try:
        folder.read_record()
        folder.frozen()
    except UserError as error:
        return str(error)
    except OSError as error:
        return failures.of_file(error)
    return None


def inspect(folder: RunFolder, values: dict[str, Any] | None = None) -> Entry:
    """Return the state of the run in `folder`; with the `values` that it would have now, also whether it is stale.

    Stale: started with another configuration than `values`, or from weights that have changed since. Damaged: a file
    of it is not whole, or cannot be read.
    """
    if not folder.exists() and not folder.lacks_record():
        return Entry(NEW)
    why = damage(folder)
    if why is not None:
        return Entry(DAMAGED, why)
    try:
        with files.understood(folder.path):
            return _inspect(folder, folder.read_record(), values)
    except UserError as error:
        return Entry(DAMAGED, str(error))
    except OSError as error:
        return Entry(DAMAGED, failures.of_file(error))


def overrides(folder: RunFolder) -> list[str]:
    """The overrides that a run was started with; none where its record cannot be read."""
    try:
        found = folder.read_record().get("overrides")
    except (UserError, OSError):
        return []
    return found if isinstance(found, list) and all(isinstance(each, str) for each in found) else []


def _inspect(folder: RunFolder, record: dict[str, Any], values: dict[str, Any] | None) -> Entry:
    changed = (_changes(folder, values) if values else []) + inputs.changed_upstream(record)
    if changed and not (folder.in_use() or scheduled_as(folder)):  # what runs, or will, keeps its configuration
        return Entry(STALE, few(changed, SHOWN_CHANGES, joint="; "))
    return state(folder, record)


def state(folder: RunFolder, record: dict[str, Any]) -> Entry:
    """Return the state of a run with the given record, whatever its configuration would be now."""
    if folder.in_use():
        return Entry(RUNNING, _progress(folder, record))
    if folder.summary.exists():
        return Entry(DONE, _continued(record))
    scheduled = scheduled_as(folder)
    if folder.failure.exists() and not (scheduled and scheduled.waits):  # one that waits will try again
        failure = files.read_fields(folder.failure, reason=str)
        log = failure.get("log") or (folder.log if folder.log.exists() else None)
        return Entry(FAILED, in_a_line(failure["reason"]) + (f" (log: {log})" if log else ""))
    if scheduled and not folder.locked:  # who holds the folder is that job itself, at its end
        return Entry(QUEUED, "; ".join(filter(None, [str(scheduled), record["started"] and _progress(folder, record)])))
    if not record["started"]:
        return Entry(NEW)
    return Entry(INTERRUPTED, _progress(folder, record))


def in_a_line(reason: str) -> str:
    """The first line of a reason, or where that announces more, all of them as one."""
    first, _, more = reason.partition("\n")
    return " ".join([first, *(line.strip() for line in more.splitlines())]) if first.endswith(":") else first


def scheduled_as(folder: RunFolder) -> JobState | None:
    """Ask the scheduler about the job that trains, or will train, in `folder`; None: it has none."""
    if not folder.submitted.exists():
        return None
    submitted = files.read_fields(folder.submitted, launcher=str, job=(str, int))
    job = str(submitted["job"])
    if submitted["launcher"] == "local":
        return JobState("RUNNING") if job.isdecimal() and _is_job_here(int(job)) else None
    found = slurm.job_state(job)
    return None if found and found.ended else found


def table(rows: list[tuple[str, Entry]], *, columns: int | None = None, noun: str = "job") -> str:
    """Aligned lines, and a count of each state; on a terminal, or with `columns`, notes are wrapped to its width."""
    if columns is None:
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    names = min(max((len(name) for name, _ in rows), default=0), max(columns // 2, 20))
    lines = []
    for name, entry in rows:
        head = f"  {name:<{names}}  {entry.state:<11}  "
        if len(name) > names:
            lines.append(f"  {name}")
            head = f"  {'':<{names}}  {entry.state:<11}  "
        notes = textwrap.wrap(entry.note, max(columns - len(head), 20), break_on_hyphens=False) or [""]
        lines += [
            f"{start}{note}".rstrip()
            for start, note in zip([head, *[" " * len(head)] * len(notes)], notes, strict=False)
        ]
    return "\n".join([*lines, f"  {count([entry for _, entry in rows], noun=noun)}"])


def count(entries: list[Entry], *, noun: str = "job") -> str:
    states = [entry.state for entry in entries]
    found = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"{len(states)} {noun}{'s' if len(states) != 1 else ''}: {found}"


def labels(overrides: list[list[str]]) -> list[str]:
    """A short name for each job: what it overrides and not all do; for a single one, its choices of groups."""
    if len(overrides) == 1:
        return [" ".join(o for o in overrides[0] if "." not in o.partition("=")[0]) or "job"]
    common = set.intersection(*map(set, overrides)) if overrides else set()
    return [" ".join(o for o in each if o not in common) or "job" for each in overrides]


def _changes(folder: RunFolder, values: dict[str, Any]) -> list[str]:
    if refusals.extends(folder, values):
        return []
    differing = refusals.sorted_out(folder, values, refusals.differences(folder, values)).first()
    return [f"{key}: {theirs!r} there, {mine!r} now" for key, (theirs, mine) in differing.items()]


def _progress(folder: RunFolder, record: dict[str, Any]) -> str:
    """The step that is being trained and its last logged update."""
    try:
        steps = folder.frozen()["stage"]["steps"]
    except (OSError, UserError):
        return ""
    current = next((name for name in steps if name not in record["steps"]), None)
    if current is None:
        return "all steps trained"
    rows = read_rows(folder.metrics(current))
    return f"{current}, update {rows[-1]['global_step'] if rows else 0}" + (
        f"; {_continued(record)}" if record["restarts"] else ""
    )


def _continued(record: dict[str, Any]) -> str:
    times = record["restarts"]
    return f"continued {times} time{'s' if times > 1 else ''}" if times else ""


def _is_job_here(process: int) -> bool:
    """Whether the process is one of submitit's on this machine; numbers are given again."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, PermissionError):
        return False
    command = Path(f"/proc/{process}/cmdline")  # empty for a process that has ended and was not waited for
    return not command.exists() or b"submitit" in command.read_bytes()
