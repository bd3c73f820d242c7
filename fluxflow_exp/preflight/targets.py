"""Checks of the nodes that name what is built: keys and values against the signature of their target."""

import inspect
import json
import typing
from typing import Annotated, Any

from annotated_types import Len
from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from fluxflow_exp.config import bounds
from fluxflow_exp.config.published import is_known, is_own, locate
from fluxflow_exp.errors import did_you_mean

LIVE = {"setup", "optimizer", "updates", "params", "assets"}  # arguments given as live objects
WHERE = ". Modules are looked for among installed ones and in PYTHONPATH, with `python -m` in the current folder, too"
# Of torch's optimizers, whose signatures declare no ranges.
OPTIMIZER_RANGES: dict[str, Any] = {
    "lr": bounds.NonNegativeFloat,
    "betas": Annotated[list[bounds.ShareBelowOne], Len(2, 2)],
    "eps": bounds.NonNegativeFloat,
    "weight_decay": bounds.NonNegativeFloat,
    "momentum": bounds.ShareBelowOne,
    "dampening": bounds.Share,
    "alpha": bounds.Share,
}


def problems(value: Any, path: str) -> list[str]:
    """One line for each thing wrong with every `_target_` node of `value`, which stands at `path` ("a.b." or "")."""
    if isinstance(value, list):
        return [line for i, child in enumerate(value) for line in problems(child, f"{path}{i}.")]
    if not isinstance(value, dict):
        return []
    found = [line for key, child in value.items() for line in problems(child, f"{path}{key}.")]
    if isinstance(value.get("_target_"), str):
        found += of_node(value, path.rstrip("."))
    return found


def hints_of(target: Any) -> dict[str, Any]:
    """Argument → annotation, with its range, of what a `_target_` names."""
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    if str(getattr(target, "__module__", "")).startswith("torch.optim."):
        hints |= {name: hint for name, hint in OPTIMIZER_RANGES.items() if name in inspect.signature(target).parameters}
    return hints


def of_node(node: dict[str, Any], path: str) -> list[str]:
    """The same for the node at `path`, without those within it."""
    if not isinstance(node["_target_"], str):
        return [f"{path}._target_: {node['_target_']!r} is not the name of a class"]
    try:
        target = locate(node["_target_"])
    except (ImportError, AttributeError, ValueError) as error:
        absent = isinstance(error, ModuleNotFoundError) and f"{node['_target_']}.".startswith(f"{error.name}.")
        return [f"{path}._target_: cannot find {node['_target_']!r} ({error}){WHERE if absent else ''}"]
    parameters = dict(inspect.signature(target).parameters)
    further = [hints_of(target).get(name) for name, p in parameters.items() if p.kind is p.VAR_KEYWORD]
    given = {k: v for k, v in node.items() if k not in ("_target_", "_partial_")}
    allowed = [name for name, p in parameters.items() if name not in LIVE and p.kind is not p.VAR_KEYWORD]
    found = [
        f"{path}.{key}: {node['_target_']} takes no {key!r}{did_you_mean(key, allowed)}"
        for key, value in given.items()
        if key not in allowed and (key in LIVE or not any(_may_be(hint, value) for hint in further))
    ]
    needed = [
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    found += [
        f"{path}.{name} is not set: {node['_target_']} needs it"
        for name in needed
        if name not in given and name not in LIVE
    ]
    return found + _values(target, given, path)


def _values(target: Any, given: dict[str, Any], path: str) -> list[str]:
    """Values of another type than their argument's, or out of its range."""
    hints = hints_of(target)
    found = []
    for key, value in given.items():
        if key not in hints or value == "???" or bounds.finite_problem(value):
            continue
        if "_target_" in json.dumps(value, default=str):  # built by itself, and looked at there
            found += [f"{path}.{key} {wrong}" for wrong in [_unlike(hints[key], value)] if wrong]
            continue
        wrong = bounds.problem(hints[key], value)
        if wrong:
            found.append(f"{path}.{key} {wrong}")
            continue
        reason = _type_problem(hints[key], value)
        if reason:
            found.append(f"{path}.{key}={value!r}: {reason}")
    return found


def _may_be(hint: Any, value: Any) -> bool:
    """Whether `value` may stand at a key that the signature does not name: an object is of the user's own class."""
    return not _is_built(hint) or (isinstance(value, dict) and is_own(value.get("_target_", "")))


def _unlike(hint: Any, value: Any) -> str | None:
    """Whether a node builds something else than its argument takes; the user's own need not inherit from it, but has
    what is called of it."""
    kinds = tuple(each for each in (hint, *typing.get_args(hint)) if _is_built(each) and not _is_protocol(each))
    if not kinds:
        return "takes a plain value, and something that is built stands there" if _is_plain(hint) else None
    target = value.get("_target_") if isinstance(value, dict) else None
    if not isinstance(target, str) or not is_known(target):
        return None
    try:
        made = locate(target)
    except (ImportError, AttributeError):
        return None  # said where it stands
    if inspect.isclass(made) and issubclass(made, kinds):
        return None
    if not is_own(target):
        return f"takes a {kinds[0].__name__}, not {target}"
    lacking = sorted({name for name in dir(kinds[0]) if name[0] != "_"} - {*dir(made)})
    if not inspect.isclass(made) or hasattr(made, "__getattr__") or not lacking:
        return None  # a function may make anything
    return (
        f"takes a {kinds[0].__name__} or a class of your own that inherits from it, and {target} has no "
        f"{', '.join(lacking)}: what is not one stands under a key of its own name"
    )


def _is_protocol(kind: Any) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


def _is_plain(hint: Any) -> bool:
    return hint in (int, float, str, bool) or any(_is_plain(each) for each in typing.get_args(hint))


def _type_problem(hint: Any, value: Any) -> str | None:
    built = [each for each in (hint, *typing.get_args(hint)) if _is_built(each)]
    if built:
        off = type(None) in typing.get_args(hint)
        return None if value is None and off else f"must be built: a _target_ of {built[0].__module__} with arguments"
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        adapter.validate_json(json.dumps(value), strict=True)
    except PydanticSchemaGenerationError:
        return None  # a type of torch's own, which pydantic cannot judge
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        text = isinstance(value, int | float) and str in (hint, *typing.get_args(hint))
        return f"{reason[0].lower()}{reason[1:]}" + (", which takes quotes within quotes: '\"…\"'" if text else "")
    return None


def _is_built(hint: Any) -> bool:
    """Whether an argument takes an object of this package."""
    return inspect.isclass(hint) and hint.__module__.startswith("fluxflow_exp.")
