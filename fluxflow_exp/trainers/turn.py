"""One player's, or several players', part in an update."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fluxflow_exp.losses.terms import Terms
from fluxflow_exp.trainers.player import Player


@dataclass
class Micro:
    """A slice of the global batch."""

    images: Tensor  # (micro-batch, 3, height, width), float32 in [-1, 1], on the device; or what `inputs` made of them
    captions: list[str]
    rows: slice  # of the global batch


@dataclass
class Turn:
    """Players that one loss trains together. `loss` gives terms and the weights of those that are summed.

    `begin` is called before the turn's first micro-batch, again if the turn is done again: it forgets what `loss` has
    gathered over micro-batches.
    """

    players: list[Player]
    loss: Callable[[Micro], tuple[Terms, dict[str, float | Tensor]]]
    begin: Callable[[], None] = lambda: None
