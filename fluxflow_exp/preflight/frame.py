"""Checks of a configuration's frame: unknown keys, missing values, numbers out of range, no nodes."""

import dataclasses
import typing
from typing import Any, NamedTuple

from omegaconf.errors import OmegaConfBaseException

from fluxflow_exp.config import bounds
from fluxflow_exp.config.compose import PARTS, laid_over_frame
from fluxflow_exp.config.published import is_known
from fluxflow_exp.config.schema import RunConfig, Stage, Step
from fluxflow_exp.data.captions_file import FORMS
from fluxflow_exp.errors import did_you_mean, suggest_key


class Problem(NamedTuple):
    """Something wrong at one key."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key} {self.text}"


def problems(values: dict[str, Any]) -> list[str]:
    """One line for each thing wrong with the frame's own keys in the resolved configuration `values`."""
    unknown = _keys(values, RunConfig, "")
    numbers = finite_problems(values, "") + _ranges(values, RunConfig, "")
    mistyped = [] if unknown or numbers else _mistyped(values)
    if mistyped:
        return mistyped
    found = unknown + _missing(values, "") + [str(each) for each in numbers] + _nodes(values)
    absent = _absent_steps(values)
    return [line for line in found if not line.startswith(tuple(absent))] + list(absent.values())


def _absent_steps(values: dict[str, Any]) -> dict[str, str]:
    """Key of each step that has nothing of what every step must have → what is said of it: its name is a mistake."""
    steps = (values.get("stage") or {}).get("steps") or {}
    trainers = {name: step["trainer"] for name, step in steps.items() if isinstance(step.get("trainer"), dict)}
    here = [name for name, trainer in trainers.items() if "_target_" in trainer]
    return {
        f"stage.steps.{name}.": f"stage.steps: there is no step {name!r}{did_you_mean(name, here) or '.'} "
        f"The steps: {', '.join(here)}. One of your own needs trainer._target_, n_epochs and batch_size"
        for name in trainers
        if here and name not in here and steps[name].get("n_epochs") == steps[name].get("batch_size") == "???"
    }


def _mistyped(values: dict[str, Any]) -> list[str]:
    """A value of another type than its field's: Hydra refuses it where it composes, and values come from files, too."""
    try:
        laid_over_frame(values)
    except OmegaConfBaseException as error:
        return [f"{error.full_key}: {str(error).splitlines()[0]}"]
    return []


def _frame(value: Any, kind: type, path: str) -> typing.Iterator[tuple[str, Any, type]]:
    """Each mapping of the frame that `value` holds, with its path and dataclass."""
    if not isinstance(value, dict):
        return
    yield path, value, kind
    for key, hint in typing.get_type_hints(kind).items():
        where = f"{path}{key}."
        if dataclasses.is_dataclass(_bare(hint)):
            yield from _frame(value.get(key), _bare(hint), where)
        elif kind is Stage and key == "steps":
            steps = value.get(key)
            for name, step in steps.items() if isinstance(steps, dict) else ():
                yield from _frame(step, Step, f"{where}{name}.")


def _keys(values: Any, kind: type, path: str) -> list[str]:
    """Keys that a dataclass of the frame does not have."""
    return [
        f"{where}{key}: there is no such key{suggest_key(key, list(hints))}"
        for where, value, part in _frame(values, kind, path)
        for hints in [typing.get_type_hints(part)]
        for key in value
        if key not in hints
    ]


def _ranges(values: Any, kind: type, path: str) -> list[Problem]:
    """Numbers of the frame that leave the range of their field."""
    return [
        Problem(f"{where}{key}", wrong)
        for where, value, part in _frame(values, kind, path)
        for key, hint in typing.get_type_hints(part, include_extras=True).items()
        if key in value
        for wrong in [bounds.problem(hint, value[key])]
        if wrong
    ]


def finite_problems(value: Any, path: str) -> list[Problem]:
    """Numbers that are not finite, wherever they stand."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [each for key, child in pairs for each in finite_problems(child, f"{path}{key}.")]
    wrong = bounds.finite_problem(value)
    return [Problem(path.rstrip("."), wrong)] if wrong else []


def _bare(hint: Any) -> Any:
    """X of `X | None`."""
    arguments = [a for a in typing.get_args(hint) if a is not type(None)]
    return arguments[0] if len(arguments) == 1 and not isinstance(hint, type) else hint


def _missing(value: Any, path: str) -> list[str]:
    if isinstance(value, dict):
        return [line for key, child in value.items() for line in _missing(child, f"{path}{key}.")]
    if value == "???":
        key = path.rstrip(".")
        forms = f": {FORMS}" if key.endswith(".captions_file") else ""
        return [f"{key} is not set: give {key}=…{forms}"]
    return []


def _nodes(values: dict[str, Any]) -> list[str]:
    """Places of what is built that hold something else: a word, a number, nothing, the keys of no class."""
    found = []
    for group in ("optimizer", "scheduler"):
        if group in values:
            found += _node(values[group], group, group, f"choose one: {group}=…")
    broken = bool(found)
    if "data" in values and not (isinstance(values["data"], dict) and "datasets" in values["data"]):
        found += _node(values["data"], "data", "data set", "choose one: data=…")
    model = values.get("model") or {}
    for part in PARTS:
        if part in model:
            found += _node(model[part], f"model.{part}", "part", "choose a model: model=…")
    for name, step in ((values.get("stage") or {}).get("steps") or {}).items():
        where = f"stage.steps.{name}"
        found += _node(step.get("trainer"), f"{where}.trainer", "trainer", "as the stage file has it")
        for group in ("optimizer", "scheduler"):
            for player, node in (step.get(f"{group}s") or {}).items():
                key = f"{where}.{group}s.{player}"
                if not (broken and isinstance(node, dict)):  # it may follow the run's, which is none itself
                    found += _node(node, key, group, f"choose one: {group}@{key}=…")
    return found


def _node(node: Any, key: str, kind: str, way_out: str) -> list[str]:
    """Say what is wrong with `node` at the place of a `kind` of published.py."""
    if node == "???":
        return []
    if isinstance(node, dict) and isinstance(node.get("_target_"), str):
        target = node["_target_"]
        if is_known(target) and not is_known(target, kind):
            return [f"{key}: {target} is no {kind}: {way_out}"]
        partial = kind in ("optimizer", "scheduler") and node.get("_partial_") is not True
        return [f"{key}._partial_ must be true: the step calls it with its parameters"] if partial else []
    if isinstance(node, dict):
        return [f"{key} names nothing to build (no _target_): {way_out}"]
    shown = "null" if node is None else repr(node)
    return [f"{key} is what is built, with a _target_ and its arguments, not {shown}: {way_out}"]
