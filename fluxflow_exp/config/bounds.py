"""The range of a number, declared once where the number is: in the frame's fields and in constructors' arguments.

A range is the metadata of an annotation, as pydantic's `PositiveInt` or `Annotated[float, Interval(ge=0, le=1)]`.
Hydra does not see it; `preflight` judges by it, and the configuration's reference shows it.
"""

import math
import operator
import typing
from typing import Annotated, Any

from annotated_types import Ge, GroupedMetadata, Gt, Interval, Le, Lt
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

__all__ = [
    "Fraction", "NonNegativeFloat", "NonNegativeInt", "PositiveFloat", "PositiveInt", "Real", "Share", "ShareBelowOne",
    "Whole", "finite_problem", "in_words", "problem", "range_of",
]  # fmt: skip

Bound = Ge | Gt | Le | Lt
KEPT = {Ge: operator.ge, Gt: operator.gt, Le: operator.le, Lt: operator.lt}
Whole = Annotated[int, Interval()]  # any whole number
Real = Annotated[float, Interval()]  # any finite number
Share = Annotated[float, Interval(ge=0, le=1)]
ShareBelowOne = Annotated[float, Interval(ge=0, lt=1)]
Fraction = Annotated[float, Interval(gt=0, lt=1)]  # neither nothing nor all


def range_of(hint: Any) -> list[Bound] | None:
    """The bounds that `hint` declares of a number, or of each number of a list; None: it declares no range."""
    if typing.get_origin(hint) is Annotated:
        bounds = [each for item in hint.__metadata__ for each in _single(item)]
        if bounds or any(isinstance(item, Interval) for item in hint.__metadata__):
            return bounds
    found = (range_of(inner) for inner in typing.get_args(hint))
    return next((bounds for bounds in found if bounds is not None), None)


def problem(hint: Any, value: Any) -> str | None:
    """Say how `value`, a number or a list of some, leaves the range that `hint` declares; None: it does not.

    Numbers that are not finite are those of `finite_problem`.
    """
    bounds = range_of(hint)
    if bounds is None:
        return None
    for each in value if isinstance(value, list) else [value]:
        if not _is_number(each) or not math.isfinite(each) or all(KEPT[type(b)](each, _limit(b)) for b in bounds):
            continue
        off = " or null" if type(None) in typing.get_args(hint) else ""
        return f"must be {in_words(bounds, whole=_is_whole(hint))}{off}, not {each}"
    return None


def finite_problem(value: Any) -> str | None:
    """Say that a number is not finite; None: it is, or is no number."""
    return f"must be a finite number, not {value}" if isinstance(value, float) and not math.isfinite(value) else None


def in_words(bounds: list[Bound], *, whole: bool) -> str:
    """A range as a sentence has it: "at least 1", "positive", "in [0, 1)"."""
    low = next((bound for bound in bounds if isinstance(bound, Ge | Gt)), None)
    high = next((bound for bound in bounds if isinstance(bound, Le | Lt)), None)
    if low and high:
        left, right = ("[" if isinstance(low, Ge) else "("), ("]" if isinstance(high, Le) else ")")
        return f"in {left}{_limit(low)}, {_limit(high)}{right}"
    if isinstance(low, Gt):
        return f"at least {_limit(low) + 1}" if whole else "positive" if _limit(low) == 0 else f"above {_limit(low)}"
    if low:
        return f"at least {_limit(low)}"
    if high:
        return f"{'at most' if isinstance(high, Le) else 'below'} {_limit(high)}"
    return "any whole number" if whole else "any number"


def _single(metadata: Any) -> list[Bound]:
    if isinstance(metadata, GroupedMetadata):
        return [bound for each in metadata for bound in _single(each)]
    return [metadata] if isinstance(metadata, Ge | Gt | Le | Lt) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(hint: Any) -> bool:
    return hint is int or any(_is_whole(inner) for inner in typing.get_args(hint))


def _limit(bound: Bound) -> Any:
    return getattr(bound, KEPT[type(bound)].__name__)
