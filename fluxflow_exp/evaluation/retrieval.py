"""Retrieval: is the held-out picture of a prompt among those that what was drawn for it is most like?

A model that ignores its prompts, or draws noise, finds k of n by chance; one that draws the very pictures finds all.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from fluxflow_exp.evaluation.features import directions


def retrieval(
    real: Tensor, fake: Tensor, captions: list[str], prompts: list[str], *, among: int, within: str | None = None
) -> float:
    """Return the share of prompts whose picture is among the `among` nearest.

    `real`, (n, d), are features of held-out pictures with `captions`; `fake`, (m, d), of what was drawn for `prompts`.
    Nearness is the cosine of features that have mean 0 and deviation 1 over the held-out pictures. Pictures whose
    caption is the prompt are all right for it; a prompt without one is left out. Of equals the wrong one is nearer.
    `within`, a regular expression: only pictures are looked at in whose caption it finds what it finds in the prompt.
    ValueError: no prompt has a picture.
    """
    right = _right(captions, prompts).to(real.device)
    wrong = ~right & _alike(captions, prompts, within).to(real.device)
    nearness = directions(fake, real) @ directions(real, real).T
    best = nearness.masked_fill(~right, -2).amax(1, keepdim=True)
    nearer = (wrong & (nearness >= best)).sum(1)
    return float((nearer < among)[right.any(1)].double().mean())


def chance(captions: list[str], prompts: list[str], *, among: int, within: str | None = None) -> float:
    """Return what `retrieval` gives on average for pictures that have nothing to do with their prompts."""
    n, right = _alike(captions, prompts, within).sum(1), _right(captions, prompts).sum(1)
    missed = torch.ones(len(prompts), dtype=torch.float64)
    for drawn in range(among):  # none of the right ones among the first, without replacement
        missed *= (n - right - drawn).clamp_min(0) / (n - drawn).clamp_min(1)
    return float((1 - missed)[right > 0].mean())


def found_in(caption: str, within: str | None) -> str | None:
    """What the regular expression finds first in a caption: its groups, or where it has none all of it."""
    match = re.search(within, caption) if within else None
    return match and repr(match.groups() or match.group())


def _alike(captions: list[str], prompts: list[str], within: str | None) -> Tensor:
    """(m, n): whether picture n is looked at for prompt m."""
    return _equal([found_in(each, within) for each in captions], [found_in(each, within) for each in prompts])


def _equal(of_pictures: Sequence[str | None], of_prompts: Sequence[str | None]) -> Tensor:
    """(m, n): whether picture n has what prompt m has."""
    numbers = {word: number for number, word in enumerate(dict.fromkeys([*of_pictures, *of_prompts]))}
    pictures, prompts = (torch.tensor([numbers[each] for each in words]) for words in (of_pictures, of_prompts))
    return prompts[:, None] == pictures[None]


def _right(captions: list[str], prompts: list[str]) -> Tensor:
    """(m, n): whether picture n has prompt m for its caption."""
    right = _equal(captions, prompts)
    if not right.any():
        raise ValueError("retrieval needs prompts that are captions of the held-out pictures, and none is")
    return right
