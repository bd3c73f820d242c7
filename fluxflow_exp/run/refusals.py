"""Why a command must not train in the folder that it names. Nothing is written here, so that validate=true can ask."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fluxflow_exp import files
from fluxflow_exp.errors import UserError, few
from fluxflow_exp.run import digest_list, summary, tally, time_budget
from fluxflow_exp.run.differing import Differing, given
from fluxflow_exp.run.folder import RunFolder, run_path
from fluxflow_exp.run.identity import EXTENSIBLE, IDENTITY, identity_differences, is_extension
from fluxflow_exp.run.inputs import Inputs
from fluxflow_exp.run.lock import taken

if TYPE_CHECKING:
    from fluxflow_exp.data.protocols import DataSet
    from fluxflow_exp.step_length import Length

FOLDER = "Give this run its own name=…, or resume=fresh (moves the old folder aside)"


@dataclass(frozen=True)
class Standing:
    """A run's folder as a command finds it."""

    record: dict[str, Any]  # with the updates of minutes that are added now
    lengths: dict[str, Length]
    left: list[str]  # steps that are not finished
    longer: bool  # the last step is to be extended
    complete: bool


def refuse(folder: RunFolder, values: dict[str, Any], lengths: dict[str, Length], data: dict[str, DataSet]) -> str:
    """What a command would do in `folder`: "new", "continued" or "complete". UserError: it would refuse."""
    if values["resume"] == "fresh" or not folder.exists():
        if folder.in_use():
            raise UserError(taken(folder.path))
        if values["resume"] != "fresh":
            refuse_foreign(folder)
        return "new"
    found = standing(folder, values, lengths)
    if found.complete:
        return "complete"
    if folder.in_use():
        raise UserError(taken(folder.path))
    refuse_changed(folder, found, Inputs(values, data))
    if values["resume"] != "incomplete":
        tally.check_rows(folder, found.record, resume=values["resume"])
    return "continued"


def standing(folder: RunFolder, values: dict[str, Any], lengths: dict[str, Length]) -> Standing:
    """`lengths` of the steps are what they would be now. UserError: the run has another configuration."""
    refuse_other(folder, values)
    record, longer = folder.read_record(), extends(folder, values)
    if longer:
        time_budget.stretch(record, values, folder.frozen())
    lengths = time_budget.fixed(record, values, lengths)
    left = _steps_left(record, lengths, longer)
    return Standing(record, lengths, left, longer, complete=not left and folder.summary.exists())


def refuse_changed(folder: RunFolder, found: Standing, inputs: Inputs) -> list[str]:
    """UserError: what the run is made of has changed. What has, where resume=extend goes on with it; a line each."""
    folder.check_links()
    lines = _changed_inputs(folder, found, inputs)
    _refuse_less(folder, found, inputs.values)
    digest_list.check_finished(folder, [name for name in found.lengths if name not in found.left])
    return lines


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


def _changed_inputs(folder: RunFolder, found: Standing, inputs: Inputs) -> list[str]:
    """UserError: something that the steps that are left are made from has changed, and nobody asked to go on."""
    steps: dict[str, list[str]] = {}
    for name, what in inputs.changed_data(found.record, found.left).items():
        steps.setdefault(what, []).append(name)
    lines = [f"the data of {' and '.join(names)}: {what}" for what, names in steps.items()]
    lines += inputs.changed_files(found.record, found.left)
    if lines and inputs.values["resume"] != "extend":
        raise UserError(
            f"{folder.path}: what this run is made from is not what it was when it began:\n"
            + "".join(f"    {line}\n" for line in lines)
            + f"  Put it back, or go on with it as it is now: resume=extend. Or {FOLDER[0].lower()}{FOLDER[1:]}"
        )
    return lines


def _refuse_less(folder: RunFolder, found: Standing, values: dict[str, Any]) -> None:
    """UserError: a step would end before where it stands, or is given minutes on its way."""
    for name, update in progress(folder, found.left).items():
        length = found.lengths[name]
        if update and time_budget.is_open(found.record, values, name):
            raise UserError(
                f"{folder.path}: step {name} has begun without minutes; it can be given some when it has finished"
            )
        if update > length.updates:
            longer = _longer(name, update, found, values) if name == list(found.lengths)[-1] else ""
            raise UserError(
                f"{folder.path}: step {name} stands at update {update}, and would now end after {length.updates}. "
                f"{longer}{FOLDER}"
            )


def _longer(name: str, update: int, found: Standing, values: dict[str, Any]) -> str:
    """The words by which the last step does not end before `update`."""
    step, length = values["stage"]["steps"][name], found.lengths[name]
    given = step.get("minutes") or values.get("minutes")
    if given is not None:
        entry = found.record["minutes"][name]
        minutes = given + (update - length.updates) * entry["seconds"] / entry["updates"] / 60
        key = "minutes" if step.get("minutes") is None else f"stage.steps.{name}.minutes"
        return f"More minutes: resume=extend with {key}={math.ceil(100 * minutes) / 100:g} or more. "
    needed = {"n_epochs": -(-update // length.updates_per_epoch), "max_updates": update}
    words = [f"stage.steps.{name}.{key}={least}" for key, least in needed.items() if (step[key] or update) < least]
    return f"More epochs of the last step: resume=extend with {' '.join(words)} or more. "


def progress(folder: RunFolder, steps: list[str]) -> dict[str, int]:
    """Step → the update of its newest checkpoint."""
    from fluxflow_exp.run.checkpoint import CheckpointStore  # torch

    return {name: CheckpointStore(folder.checkpoints).progress(name) for name in steps}


def refuse_foreign(folder: RunFolder) -> None:
    """UserError: what is there is no run of this program."""
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


def sorted_out(folder: RunFolder, values: dict[str, Any], differing: dict[str, tuple[Any, Any]]) -> Differing:
    """The `differences` by what they come from: the words of that run and of this command come first."""
    words = folder.read_record().get("overrides", []) if folder.exists() else []
    return Differing.of(differing, values, folder.frozen(), [*words, *given()])


def extends(folder: RunFolder, values: dict[str, Any]) -> bool:
    """Whether the command asks for more epochs of the last step, and says so."""
    return is_extension(values, folder.frozen())


def refuse_other(folder: RunFolder, values: dict[str, Any]) -> None:
    """UserError: the folder holds a run with another configuration."""
    differing = differences(folder, values)
    if not differing or extends(folder, values):
        return
    extend, unmeant = "", differing
    if is_extension({**values, "resume": "extend"}, folder.frozen()):
        extend = ", or resume=extend, which gives its last step the length that is asked"
    if values["resume"] == "extend":
        extend = "; resume=extend is for another length of the last step alone"
        unmeant = {key: pair for key, pair in differing.items() if key.rpartition(".")[2] not in EXTENSIBLE}
    words = sorted_out(folder, values, unmeant).words_back()
    back = f"  To go on with that one, say {' '.join(words)}\n" if words else ""
    told = sorted_out(folder, values, differing).tell()
    raise UserError(f"{folder.path} holds a run with another configuration:\n{told}\n{back}  {FOLDER}{extend}")


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
        return [f"{own.path} is the folder of a sweep ({few(inside, 1)}). Give this run its own name=…"]
    if swept and outer.exists():
        return [f"{outer.path} is the folder of a single run. Give this sweep its own name=…"]
    return []
