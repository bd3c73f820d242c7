"""The flow loss on held-out images, at times and noise that are always the same: functions of an image's place."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fluxflow_exp.losses.flow_matching import RectifiedFlow

BATCH = 64  # images that share a draw of noise
KEY = ("flow", "held out")  # of their noise, whatever a step is called: before and after a fine-tuning it is the same
TIMES = 8  # from 1/16 to 15/16, an image each in turn


@torch.no_grad()
def flow_loss(
    images: Tensor,
    captions: list[str],
    *,
    compressor: Any,
    flow: Any,
    text_encoder: Callable[[list[str]], Any],
    objective: RectifiedFlow,
    source: Callable[[int], torch.Generator],
    places: Sequence[int],
    total: int,
    seen: list[Tensor] | None = None,
) -> Tensor:
    """(batch,) squared errors of the predicted velocity of `images` (batch, 3, height, width) in [-1, 1].

    `places` are those of the images among `total`. Each 64 places share a draw of noise: `source` takes the first of
    them, and may be anywhere. `seen` gets the latents, of unit scale.
    """
    scale = compressor.downscale
    shape = (compressor.vae_dim, *(side // scale for side in images.shape[-2:]))
    drawn = [each.to(images.device) for each in _noise(places, total, shape, source)]
    times = (torch.tensor(places, device=images.device) % TIMES + 0.5) / TIMES
    data = flow.normalise(compressor(images).sample(drawn[0]).float())
    if seen is not None:
        seen.append(data)
    velocity = flow(objective.interpolate(data, drawn[1], times), times, text_encoder(captions))
    return objective(velocity, data, drawn[1], times)["flow"]


def _noise(
    places: Sequence[int], total: int, shape: tuple[int, ...], source: Callable[[int], torch.Generator]
) -> list[Tensor]:
    """(batch, *shape) of the posterior's, and of the flow's."""
    rows: list[list[Tensor]] = [[], []]
    firsts = [place - place % BATCH for place in places]
    for first in sorted({*firsts}):
        drawing = source(first)
        inside = [place - first for place, theirs in zip(places, firsts, strict=True) if theirs == first]
        for kind in rows:
            whole = torch.randn((min(BATCH, total - first), *shape), generator=drawing, device=drawing.device)
            kind.append(whole[inside])
    return [torch.cat(kind) for kind in rows]
