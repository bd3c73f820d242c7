"""Starting, continuing, or refusing: what a command means for the run folder that it names."""

from __future__ import annotations

import hashlib
import secrets
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fluxflow_exp import files
from fluxflow_exp.console import Console
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import clock
from fluxflow_exp.run import digest_list, inputs, mirror, provenance, summary, tally, time_budget
from fluxflow_exp.run.folder import RunFolder, run_path
from fluxflow_exp.run.identity import EXTENSIBLE, IDENTITY, identity_differences, is_extension, tell, words_back
from fluxflow_exp.run.inputs import Inputs

if TYPE_CHECKING:
    from fluxflow_exp.data.protocols import DataSet
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
            refuse_other(folder, values)  # which says more than that it is held
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
        _refuse_foreign(folder)
        create(folder, values, _given())
    refuse_other(folder, values)
    record, longer = folder.read_record(), extends(folder, values)
    if longer:
        time_budget.stretch(record, values, folder.frozen())
    lengths = time_budget.fixed(record, values, lengths)
    left = _steps_left(record, lengths, longer)
    _note_finished(record, inputs, [name for name in lengths if name not in left], console)
    if not left and folder.summary.exists():
        console.say(f"{folder.path}: complete")
        return "complete"
    _must_be_held(folder)
    folder.remove_leftovers()
    if not created:
        folder.check_links()
        _check_inputs(folder, record, inputs, left, console)
        _refuse_less(folder, lengths, left)
        digest_list.check_finished(folder, [name for name in lengths if name not in left])
        told = tally.check_rows(folder, record, resume=values["resume"])
        if told:
            console.say("\n  ".join(told))
    if longer:
        extend(folder, record, values, _given())
    before = record.get("planned", {})
    record["planned"] = {n: asdict(e) if n in left else before.get(n, asdict(e)) for n, e in lengths.items()}
    for name in lengths:
        if time_budget.is_open(record, values, name):
            record["planned"][name]["updates"] = 0  # not known yet
    inputs.remember(record)
    devices = values["hardware"]["devices"] * values["hardware"]["slurm"]["nodes"]
    return _start(folder, record, {"machine": machine, **provenance.versions()}, values, console, devices=devices)


def _must_be_held(folder: RunFolder) -> None:
    if not folder.locked:
        raise UserError(f"nothing can be written in {folder.path} or beside it: choose another output_root=…")


def _steps_left(record: dict[str, Any], lengths: dict[str, Length], longer: bool) -> list[str]:
    """Steps that are not finished; `longer`: the last one is to be extended."""
    entries, planned = record["steps"], record.get("planned", {})
    last = list(lengths)[-1]
    return [
        name
        for name, each in lengths.items()
        if not summary.is_finished(entries.get(name), planned.get(name, asdict(each)))
        or (longer and name == last and "ended_by" not in entries[name])
    ]


def _note_finished(record: dict[str, Any], inputs: Inputs, steps: list[str], console: Console) -> None:
    for name, what in inputs.changed_data(record, steps).items():
        console.say(f"Note: step {name} is finished; its data are not what it was trained on: {what}")


def _check_inputs(folder: RunFolder, record: dict[str, Any], inputs: Inputs, left: list[str], console: Console) -> None:
    """UserError: something that the steps that are `left` are made from has changed, and nobody asked to go on."""
    steps: dict[str, list[str]] = {}
    for name, what in inputs.changed_data(record, left).items():
        steps.setdefault(what, []).append(name)
    lines = [f"the data of {' and '.join(names)}: {what}" for what, names in steps.items()]
    lines += inputs.changed_files(record, left)
    if not lines:
        return
    if inputs.values["resume"] != "extend":
        raise UserError(
            f"{folder.path}: what this run is made from is not what it was when it began:\n"
            + "".join(f"    {line}\n" for line in lines)
            + "  Put it back, or go on with it as it is now: resume=extend. Or give this run its own name=…, or "
            "resume=fresh (moves the old folder aside)"
        )
    inputs.accept(record, left)
    record.setdefault("changes", []).append({"time": clock.date(), "after": _progress(folder, left), "what": lines})
    console.say("\n  ".join(["Going on with what has changed since the run began (resume=extend):", *lines]))


def _refuse_less(folder: RunFolder, lengths: dict[str, Length], left: list[str]) -> None:
    """UserError: a step would end before where it stands."""
    for name, update in _progress(folder, left).items():
        length = lengths[name]
        if update > length.updates:
            raise UserError(
                f"{folder.path}: step {name} stands at update {update}, and would now end after {length.updates} "
                f"({length.updates_per_epoch} an epoch). More epochs of the last step: resume=extend with "
                f"stage.steps.{name}.n_epochs={-(-update // length.updates_per_epoch)} or more. Or give this run its "
                "own name=…, or resume=fresh (moves the old folder aside)"
            )


def _progress(folder: RunFolder, steps: list[str]) -> dict[str, int]:
    """Step → the update of its newest checkpoint."""
    from fluxflow_exp.run.checkpoint import CheckpointStore  # torch

    return {name: CheckpointStore(folder.checkpoints).progress(name) for name in steps}


def extend(folder: RunFolder, record: dict[str, Any], values: dict[str, Any], overrides: list[str]) -> None:
    """Hold the run to another length of its last step, which is not finished then."""
    last = list(values["stage"]["steps"])[-1]
    if "ended_by" not in record["steps"].get(last, {}):
        record["steps"].pop(last, None)
    record["overrides"] = overrides
    # The record first: killed in between, the same command extends it again.
    folder.write_record(record)
    folder.summary.unlink(missing_ok=True)
    folder.freeze(values)


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


def _given() -> list[str]:
    """The overrides of this command line."""
    return [word for word in sys.argv[1:] if word[:1] == "~" or (word[:1] != "-" and "=" in word)]


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


def _refuse_foreign(folder: RunFolder) -> None:
    ours = {".lock", "config.yaml", "checkpoints", "weights", "graph", "samples", "plan.json"}
    if folder.lacks_record():
        folder.read_record()  # says so
    there = folder.path.iterdir() if folder.path.is_dir() else ()
    # A start that was ended before it had a record leaves temporary files.
    if any(path.name not in ours and not path.name.startswith("tmp-") for path in there):
        raise UserError(f"{folder.path} is not empty and holds no run of this program. Choose another name=…")


def differences(folder: RunFolder, values: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key → (value there, value asked) for what makes it another run."""
    frozen = folder.frozen()
    lacking = [section for section in IDENTITY if section not in frozen]
    if lacking:
        raise files.DamagedError(f"{folder.config} is not whole: it has no {', '.join(lacking)}")
    return identity_differences(values, frozen)


def extends(folder: RunFolder, values: dict[str, Any]) -> bool:
    """Whether the command asks for more epochs of the last step, and says so."""
    return is_extension(values, folder.frozen())


def refuse_other(folder: RunFolder, values: dict[str, Any]) -> None:
    """UserError: the folder holds a run with another configuration."""
    differing = differences(folder, values)
    if not differing or extends(folder, values):
        return
    extend, unmeant = ", or, for more epochs of the last step alone, resume=extend", differing
    if values["resume"] == "extend":
        extend = "; resume=extend is for more epochs of the last step alone"
        unmeant = {key: pair for key, pair in differing.items() if key.rpartition(".")[2] not in EXTENSIBLE}
    words = words_back(unmeant)
    back = f"  To go on with that one, say {' '.join(words)}\n" if words else ""
    raise UserError(
        f"{folder.path} holds a run with another configuration:\n{tell(differing)}\n{back}"
        f"  Give this one its own name=…, or resume=fresh (moves the old folder aside){extend}"
    )


def sharing_problems(values: dict[str, Any], *, swept: str = "") -> list[str]:
    """Return what stands in the way of a run, or of a sweep's job named `swept`: the two never share a folder.

    Where they do already, each may go on; but a fresh start would move the other aside with it.
    """
    own = RunFolder(run_path(values, swept))
    outer = RunFolder(run_path(values))
    inside = [] if swept else sorted(p.parent.name for p in own.path.glob("*/run.json") if p.parent.name[:4] != "tmp-")
    if own.exists() and not (inside and values["resume"] == "fresh"):
        return []
    if inside:
        more = f" and {len(inside) - 1} more" if len(inside) > 1 else ""
        return [f"{own.path} is the folder of a sweep ({inside[0]}{more}). Give this run its own name=…"]
    if swept and outer.exists():
        return [f"{outer.path} is the folder of a single run. Give this sweep its own name=…"]
    return []
