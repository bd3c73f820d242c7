"""Finite or stop: what is not a number never reaches the weights, and the run says where it came from."""

import math
from collections.abc import Callable

from fluxflow_exp.losses.terms import Terms

SHOWN = 8


class NonFiniteError(RuntimeError):
    """A loss or a gradient that is not finite; the weights were not touched by it."""


def check_terms(
    means: dict[str, float],
    terms: Terms,
    ids: list[str],
    *,
    where: str,
    gather: Callable[[list[str]], list[str]] = list,
) -> None:
    """NonFiniteError for the first term whose mean is not finite, with the samples at fault.

    `means` are of all ranks, `terms` and `ids` of this one; `gather` joins the ids of all.
    """
    for name, value in means.items():
        if not math.isfinite(value):
            bad = (~terms[name].isfinite()).nonzero().flatten().tolist()
            raise not_finite("loss", name, gather([ids[i] for i in bad]), where=where)


def not_finite(kind: str, name: str, ids: list[str], *, where: str) -> NonFiniteError:
    shown = ", ".join(ids[:SHOWN]) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")
    return NonFiniteError(
        f"the {kind} {name!r} is not finite at {where}; samples: {shown}. The weights were not changed by it and "
        "the last checkpoint is intact. Try a lower learning rate, hardware.precision=bf16 or fp32, or look at these "
        "samples"
    )
