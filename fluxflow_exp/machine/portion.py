"""Rows that the ranks divide: each passes some neighbouring ones through a model, the first gets what all have made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from fluxflow_exp.machine.ranks import Ranks

Value = TypeVar("Value")


@dataclass(frozen=True)
class Portion:
    """This rank's rows; alone it has all of them, and everything below is the identity.

    A sharded model needs all ranks in each pass, so that all pass as many rows: behind its own a rank repeats its last.
    """

    ranks: Ranks
    total: int  # rows of all ranks
    first: int  # place among them of this rank's first
    own: int  # this rank's
    each: int  # that every rank passes: the most that one has, and 1 at least

    @classmethod
    def even(cls, ranks: Ranks, total: int) -> "Portion":
        """Divided as evenly as it goes; the last ranks may have fewer, or none."""
        each = max(-(-total // ranks.count), 1)
        first = min(ranks.rank * each, total)
        return cls(ranks, total, first, min(each, total - first), each)

    @classmethod
    def of_own(cls, ranks: Ranks, own: int) -> "Portion":
        """What it comes to if this rank has `own` rows. All ranks call it together."""
        counts = ranks.gather([own])
        return cls(ranks, sum(counts), sum(counts[: ranks.rank]), own, max(*counts, 1))

    @property
    def places(self) -> list[int]:
        """Of the rows that this rank passes, `each` of them; of a rank that has none, the last one of all."""
        return [min(self.first + min(i, max(self.own - 1, 0)), self.total - 1) for i in range(self.each)]

    def whole(self, made: Tensor) -> Tensor:
        """(each, …) on every rank → (total, …) on the first one, on the CPU; on others what is their own."""
        if self.ranks.count == 1:
            return made
        mine = made[: self.own].cpu()
        held = self.ranks.to_first(mine)
        return torch.cat(held) if held else mine

    def listed(self, values: Sequence[Value]) -> list[Value]:
        """A value a row → those of all ranks, on every rank."""
        return self.ranks.gather(list(values[: self.own]))

    def mean(self, value: float) -> float:
        """The mean over all rows of what has the mean `value` over this rank's own, on every rank."""
        if self.ranks.count == 1:
            return value
        pairs = self.ranks.gather([(value, self.own)])
        return sum(each * count for each, count in pairs if count) / self.total
