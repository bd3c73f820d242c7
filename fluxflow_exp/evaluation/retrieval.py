"""Retrieval: is the held-out picture of a prompt among those that what was drawn for it is most like?

A model that ignores its prompts, or draws noise, finds k of n by chance; one that draws the very pictures finds all.
"""

import torch
from torch import Tensor

from fluxflow_exp.evaluation.features import directions


def retrieval(real: Tensor, fake: Tensor, captions: list[str], prompts: list[str], *, among: int) -> float:
    """Return the share of prompts whose picture is among the nearest.

    `real`, (n, d), are features of held-out pictures with `captions`; `fake`, (m, d), of what was drawn for `prompts`.
    Nearness is the cosine of features that have mean 0 and deviation 1 over the held-out pictures. Pictures whose
    caption is the prompt are all right for it; a prompt without one is left out. Of equals the wrong one is nearer.
    ValueError: no prompt has a picture.
    """
    right = _right(captions, prompts).to(real.device)
    nearness = (directions(fake, real) @ directions(real, real).T)[right.any(1)]
    right = right[right.any(1)]
    best = nearness.masked_fill(~right, -2).amax(1, keepdim=True)
    nearer = (~right & (nearness >= best)).sum(1)
    return float((nearer < among).double().mean())


def chance(captions: list[str], prompts: list[str], *, among: int) -> float:
    """Return what `retrieval` gives on average for pictures that have nothing to do with their prompts."""
    n, right = len(captions), _right(captions, prompts).sum(1)
    missed = torch.ones(len(prompts), dtype=torch.float64)
    for drawn in range(min(among, n)):  # none of the right ones among the first, without replacement
        missed *= (n - right - drawn).clamp_min(0) / (n - drawn)
    return float((1 - missed)[right > 0].mean())


def _right(captions: list[str], prompts: list[str]) -> Tensor:
    """(m, n): whether picture n has prompt m for its caption."""
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys([*captions, *prompts]))}
    of_pictures, of_prompts = (torch.tensor([numbers[each] for each in words]) for words in (captions, prompts))
    right = of_prompts[:, None] == of_pictures[None]
    if not right.any():
        raise ValueError("retrieval needs prompts that are captions of the held-out pictures, and none is")
    return right
