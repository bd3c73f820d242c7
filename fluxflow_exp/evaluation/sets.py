"""Measures that compare a set of drawn pictures with a set of held-out ones, in the features of a network."""

from torch import Tensor

from fluxflow_exp.evaluation import coverage, distances
from fluxflow_exp.evaluation.retrieval import chance, retrieval

AMONG = {"retrieval_1": 1, "retrieval_5": 5}


def compared(
    names: list[str],
    real: Tensor,
    fake: Tensor,
    *,
    captions: list[str],
    prompts: list[str],
    seed: int = 0,
    within: str | None = None,
) -> dict[str, float]:
    """Return the measures `names` of features (n, d) of pictures with `captions`, and (m, d) drawn for `prompts`.

    `within`: see retrieval.
    """
    found: dict[str, float] = {}
    if {*coverage.NAMES} & {*names}:
        found |= coverage.precision_recall(real, fake)
    for name in names:
        if name in AMONG:
            found[name] = retrieval(real, fake, captions, prompts, among=AMONG[name], within=within)
        elif name == "kid":
            found[name] = distances.kernel(real, fake, seed=seed)
        elif name in ("fd", "rfd"):
            found[name] = distances.frechet(real, fake)
    return {name: found[name] for name in names}


def by_chance(name: str, captions: list[str], prompts: list[str], *, within: str | None = None) -> float | None:
    """Return what the measure gives for pictures that have nothing to do with their prompts; None: unknown."""
    return chance(captions, prompts, among=AMONG[name], within=within) if name in AMONG else None
