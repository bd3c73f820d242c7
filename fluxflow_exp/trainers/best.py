"""The best point of a step: the update after which the held-out loss was lowest, with the weights of then.

It is a part of each checkpoint, so that it is never ahead of the update that a run goes on from: evaluations after
that are done again and choose again.
"""

from typing import Any, NamedTuple

from torch import Tensor

from fluxflow_exp.machine import sharding
from fluxflow_exp.trainers.player import Player

Weights = dict[str, dict[str, Tensor]]  # part → name → tensor


class Best(NamedTuple):
    update: int
    loss: float
    weights: Weights  # averaged, of the parts that are trained, on the CPU; nothing on other ranks than the first

    @classmethod
    def restored(cls, state: dict[str, Any] | None, *, keep: bool) -> "Best | None":
        """The point that a checkpoint holds; its weights only with `keep`."""
        return cls(state["update"], state["loss"], _on_cpu(state["weights"]) if keep else {}) if state else None


def averages(players: dict[str, Player], *, keep: bool) -> Weights:
    """Copies on the CPU of what is evaluated; with sharded parts all ranks call it together, and one keeps them."""
    spread = {part: state for player in players.values() for part, state in player.averages().items()}
    found: Weights = sharding.gathered(spread)
    return _on_cpu(found) if keep else {}


def _on_cpu(weights: Weights) -> Weights:
    return {part: {k: v.detach().to("cpu", copy=True) for k, v in state.items()} for part, state in weights.items()}
