"""Finite or stop: what is not a number never reaches the weights, and the run says where it came from."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from fluxflow_exp.errors import few
from fluxflow_exp.losses.terms import Terms

SHOWN = 8


class Place(NamedTuple):
    """Where in a run something was computed."""

    step: str
    update: int  # from 1
    players: tuple[str, ...]

    def __str__(self) -> str:
        return f"update {self.update} of step {self.step!r}"


class NonFiniteError(RuntimeError):
    """A loss (`term`) or a gradient (None) that is not finite; the weights were not touched by it."""

    def __init__(self, message: str, place: Place, player: str, term: str | None, ids: list[str]) -> None:
        super().__init__(message)
        self.place, self.player, self.term, self.ids = place, player, term, ids


def check_terms(
    means: dict[str, float],
    terms: Terms,
    ids: list[str],
    *,
    where: Place,
    gather: Callable[[list[str]], list[str]] = list,
) -> None:
    """NonFiniteError for the first term whose mean is not finite, with the samples at fault.

    `means` are of all ranks, `terms` and `ids` of this one; `gather` joins the ids of all.
    """
    for name, value in means.items():
        if not math.isfinite(value):
            bad = (~terms[name].isfinite()).nonzero().flatten().tolist()
            raise not_finite("loss", name, gather([ids[i] for i in bad]), where=where)


def not_finite(kind: Literal["loss", "gradient"], name: str, ids: list[str], *, where: Place) -> NonFiniteError:
    return NonFiniteError(
        f"the {kind} {name!r} is not finite at {where}; samples: {few(ids, SHOWN)}. The weights were not changed by "
        "it, and checkpoints from before are intact. Try a lower learning rate, hardware.precision=fp32 where it is "
        "another, or look at these samples",
        where,
        name.removesuffix("_norm") if kind == "gradient" else where.players[0],
        name if kind == "loss" else None,
        ids,
    )
