"""Other values that a configured key could have, likely ones first."""

import copy
import inspect
import typing
from typing import Any, Literal

from fluxflow_exp.config.schema import RunConfig

FROM_ZERO = (0.5, 2.0, 10.0)
FACTORS = (0.5, 2.0, 1e-3, 1e3)


def others(value: Any, hint: Any = None) -> list[Any]:
    """Other values than `value`, which are none of its kind's choices only where `hint` does not name them.

    Empty: an option that is off (None, or nothing in a list) has no other value that could be known.
    """
    choices = _choices(hint)
    if choices:
        return [choice for choice in choices if choice != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return _numbers(value, [1, 2, 10] if value == 0 else [2 * value, value // 2, value + 1, value - 1])
    if isinstance(value, float):
        return _numbers(value, FROM_ZERO if value == 0 else [factor * value for factor in FACTORS] + [0.0])
    if isinstance(value, str):
        return [f"{value}x"]
    if isinstance(value, list) and value:
        changed = [[*value[:i], other, *value[i + 1 :]] for i, each in enumerate(value) for other in others(each)]
        return [value[:-1], *changed] if isinstance(value[0], str) else [*changed, value[:-1]]
    return []


def hints_of(target: Any) -> dict[str, Any]:
    """Argument → type of what a `_target_` names."""
    return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)


def replaced(config: RunConfig, key: str, other: Any) -> RunConfig:
    """A copy of `config` with `other` at the dotted `key`."""
    changed = copy.deepcopy(config)
    *path, leaf = key.split(".")
    node = at(changed, path)
    if isinstance(node, dict):
        node[leaf] = other
    else:
        setattr(node, leaf, other)
    return changed


def at(node: Any, path: list[str]) -> Any:
    """Return the value below `node` at `path`, through dataclasses and dicts."""
    for name in path:
        node = node[name] if isinstance(node, dict) else getattr(node, name)
    return node


def _numbers(value: float, candidates: Any) -> list[Any]:
    found = dict.fromkeys(candidate for candidate in candidates if candidate != value and candidate >= 0)
    return list(found) if value >= 0 else [-other for other in others(-value)]


def _choices(hint: Any) -> list[Any]:
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    return [choice for inner in typing.get_args(hint) for choice in _choices(inner)]
