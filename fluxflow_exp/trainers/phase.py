"""One player's, or several players', part in an update."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fluxflow_exp.losses.terms import Terms
from fluxflow_exp.trainers.player import Player


@dataclass
class Micro:
    """A slice of the global batch."""

    images: Tensor  # (micro-batch, 3, height, width), float32 in [-1, 1], on the device; or what `inputs` made of them
    captions: list[str]
    rows: slice  # of the global batch
    share: slice  # of this rank's share of it


@dataclass
class Phase:
    """Players that one loss trains together. `loss` gives terms and the weights of those that are summed.

    `arguments` gives what `loss` takes, without gradients: by default the micro-batch. `replayed`: these are tensors,
    the loss is a function of them and of weights alone, and a GPU may replay its passes. `key` tells passes apart that
    compute something else of the same shapes.

    `begin` is called before the phase's first micro-batch, again if the phase is done again: it forgets what `loss` has
    gathered over micro-batches. `end` gets the terms of the rank's share, and takes out what later phases need and is
    none: a replayed pass gives tensors, and keeps nothing else.
    """

    players: list[Player]
    loss: Callable[..., tuple[Terms, dict[str, float | Tensor]]]
    begin: Callable[[], None] = lambda: None
    arguments: Callable[[Micro], tuple[Any, ...]] = lambda micro: (micro,)
    replayed: bool = False
    key: Hashable = None
    end: Callable[[Terms], None] = lambda terms: None

    @property
    def keeps_gradients(self) -> bool:
        """Whether gradients stay where they are in memory, zeroed, from one update to the next."""
        return any(player.keeps_gradients for player in self.players)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Inside a `with` block, parameters of the phase's players take gradients."""
        for player in self.players:
            player.train(True)
        yield
        for player in self.players:
            player.train(False)
