"""Several captions a picture: each time that it is trained on, one of them is chosen by weight.

The choice is drawn from the sample's own generator, a function of seed, epoch and index, so that no number of workers
and no interruption changes it. Where nothing is to vary, in what is held out above all, the heaviest one stands for
all, the first of several that weigh the same.
"""

import math
import random
from typing import Any

from fluxflow_exp.data.protocols import Choices

WEIGHT = "caption_weight"  # the column of captions' weights, in each form that has columns


def chosen(choices: Choices, rng: random.Random) -> str:
    """One of the captions, drawn by weight: a single draw of `rng`."""
    captions, weights = zip(*choices, strict=True)
    (found,) = rng.choices(captions, weights)
    return str(found)


def heaviest(choices: Choices) -> str:
    """The caption that stands where none is to be chosen: the first of the largest weight."""
    return max(choices, key=lambda each: each[1])[0]


def weight_of(given: Any, column: str = WEIGHT) -> float:
    """A caption's weight as a `column` has it; nothing is 1. ValueError: it is no number above 0."""
    if given is None or given == "":
        return 1.0
    try:
        weight = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        weight = math.nan
    if not 0 < weight < math.inf:
        raise ValueError(f"its {column} must be a number above 0, not {given!r}")
    return weight


def weights_of(given: Any, count: int, column: str = WEIGHT) -> list[float]:
    """The weights of `count` captions that stand in a list. ValueError: they are not as many numbers above 0."""
    if given is None:
        return [1.0] * count
    if not isinstance(given, list) or len(given) != count:
        raise ValueError(f"its {column} must be a list of {count} numbers, one for each caption, not {given!r}")
    return [weight_of(each, column) for each in given]
