"""Starting or continuing: what a command means for the run folder that it names."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fluxflow_exp import files
from fluxflow_exp.console import Console
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import clock
from fluxflow_exp.run import inputs, mirror, provenance, refusals, tally, time_budget
from fluxflow_exp.run.differing import given
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.inputs import Inputs
from fluxflow_exp.run.kept_numbers import kept
from fluxflow_exp.run.refusals import Standing

if TYPE_CHECKING:
    from fluxflow_exp.data.protocols import DataSet
    from fluxflow_exp.machine.ranks import Ranks
    from fluxflow_exp.step_length import Length


def open_run(
    folder: RunFolder,
    values: dict[str, Any],
    lengths: dict[str, Length],
    data: dict[str, DataSet],
    console: Console,
    *,
    machine: str,
) -> str:
    """Make, continue or leave alone: "new", "continued" or "complete". UserError: it must not be trained in.

    The folder is held before it is looked at, and from then on. `lengths` and `data` of the steps are what they would
    be now; `machine` goes into the run's record.
    """
    try:
        folder.lock()
    except UserError:
        if folder.exists() and values["resume"] != "fresh":
            refusals.refuse_other(folder, values)  # which says more than that it is held
        raise
    try:
        return _open(folder, values, lengths, Inputs(values, data), console, machine)
    except BaseException:
        folder.unlock()
        raise


def _open(
    folder: RunFolder,
    values: dict[str, Any],
    lengths: dict[str, Length],
    inputs: Inputs,
    console: Console,
    machine: str,
) -> str:
    if values["resume"] == "fresh" and (folder.exists() or folder.lacks_record()):
        _must_be_held(folder)
        console.say(f"The earlier run was moved to {folder.move_aside()}")
    for line in mirror.bring_back(folder, values) if folder.locked and values["resume"] != "fresh" else []:
        console.say(line)
    created = not folder.exists()
    if created:
        _must_be_held(folder)
        refusals.refuse_foreign(folder)
        create(folder, values, given())
    found = refusals.standing(folder, values, lengths)
    record, left = found.record, found.left
    _note_finished(record, inputs, [name for name in lengths if name not in left], console)
    if found.complete:
        console.say(f"{folder.path}: complete")
        return "complete"
    _must_be_held(folder)
    folder.remove_leftovers()
    if not created:
        changed = refusals.refuse_changed(folder, found, inputs)
        told = tally.check_rows(folder, record, resume=values["resume"])
        if changed:
            _accept(folder, found, inputs, changed, console)
        if told:
            console.say("\n  ".join(told))
    if found.longer:
        extend(folder, record, values, given())
    before = record.get("planned", {})
    record["planned"] = {n: asdict(e) if n in left else before.get(n, asdict(e)) for n, e in found.lengths.items()}
    for name in lengths:
        if time_budget.is_open(record, values, name):
            record["planned"][name]["updates"] = 0  # not known yet
    inputs.remember(record)
    devices = values["hardware"]["devices"] * values["hardware"]["slurm"]["nodes"]
    return _start(folder, record, {"machine": machine, **provenance.versions()}, values, console, devices=devices)


def _must_be_held(folder: RunFolder) -> None:
    if not folder.locked:
        raise UserError(f"nothing can be written in {folder.path} or beside it: choose another output_root=…")


def _note_finished(record: dict[str, Any], inputs: Inputs, steps: list[str], console: Console) -> None:
    for name, what in inputs.changed_data(record, steps).items():
        console.say(f"Note: step {name} is finished; its data are not what it was trained on: {what}")


def _accept(folder: RunFolder, found: Standing, inputs: Inputs, lines: list[str], console: Console) -> None:
    """Go on with what has changed, as it was asked."""
    inputs.accept(found.record, found.left)
    after = refusals.progress(folder, found.left)
    found.record.setdefault("changes", []).append({"time": clock.date(), "after": after, "what": lines})
    console.say("\n  ".join(["Going on with what has changed since the run began (resume=extend):", *lines]))


def extend(folder: RunFolder, record: dict[str, Any], values: dict[str, Any], overrides: list[str]) -> None:
    """Hold the run to another length of its last step, which is not finished then."""
    last = list(values["stage"]["steps"])[-1]
    if "ended_by" not in record["steps"].get(last, {}):
        record["steps"].pop(last, None)
    record["overrides"] = overrides
    # The record first: killed in between, the same command extends it again.
    folder.write_record(record)
    folder.summary.unlink(missing_ok=True)
    folder.freeze(kept(values, folder.frozen()))


def create(folder: RunFolder, values: dict[str, Any], overrides: list[str]) -> None:
    """Make the folder, with all that the run is held to: configuration, code, and the weights that it starts from."""
    commit, diff = provenance.code()
    folder.create(
        values,
        {
            "name": values["name"],
            "seed": values["seed"],
            "overrides": overrides,
            "commit": commit,
            "changed_code": hashlib.sha256(diff.encode()).hexdigest()[:16] if diff else None,
            "own_code": provenance.own_code(values),
            "upstream": inputs.upstream(values),
            "pretrained": inputs.pretrained(values),
            "made_with": None,
        },
    )
    if diff:
        files.write_text(folder.path / "code.diff", diff)


@contextmanager
def undone(folder: RunFolder, ranks: Ranks, *, undo: bool) -> Iterator[None]:
    """Where a UserError is raised within, let nothing stay of the run that this start has made, if it is to be undone.

    For its holder; whatever else is in the folder stays.
    """
    try:
        yield
    except UserError:
        ranks.meet()
        made = (folder.record, folder.config, folder.log, folder.path / "code.diff", folder.path / ".lock")
        for name in made if undo else ():
            name.unlink(missing_ok=True)
        for each in (*folder.parts, folder.path) if undo else ():
            with suppress(OSError):  # not empty, or a link
                each.rmdir()
        raise


def _start(
    folder: RunFolder,
    record: dict[str, Any],
    made_with: dict[str, str],
    values: dict[str, Any],
    console: Console,
    *,
    devices: int,
) -> str:
    folder.failure.unlink(missing_ok=True)
    folder.non_finite.unlink(missing_ok=True)
    again, closed = record["started"], record["closed"]
    if again:
        record["restarts"] += 1
        record["kills"] += closed is None  # the process before did not live to say how it ended
        console.say(f"Continuing the run in {folder.path} (restart {record['restarts']})")
    provenance.note_changes(record, made_with, console)
    provenance.enter_own(record, values, console)
    record |= {"started": True, "closed": None}
    record.setdefault("starts", []).append(  # runs that began before starts were listed have none
        {
            "time": clock.date(),
            "id": secrets.token_hex(4),
            "after": (closed or "killed") if again else None,
            "machine": made_with["machine"],
            "devices": devices,
            "seconds": 0.0,
            "spent": {},
        }
    )
    record["made_with"] = record["made_with"] or made_with
    folder.write_record(record)
    return "continued" if again else "new"
