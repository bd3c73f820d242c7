"""The flow loss on held-out images, at times and noise that are always the same."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fluxflow_exp.losses.flow_matching import RectifiedFlow

BATCH = 64  # images that share a draw of noise
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
    source: torch.Generator,
    seen: list[Tensor] | None = None,
) -> Tensor:
    """(batch,) squared errors of the predicted velocity of `images` (batch, 3, height, width) in [-1, 1].

    Noise comes from `source`, wherever it is; `seen` gets the latents, of unit scale.
    """
    count, scale = len(images), compressor.downscale
    shape = (count, compressor.vae_dim, *(side // scale for side in images.shape[-2:]))
    draw = [torch.randn(shape, generator=source, device=source.device).to(images.device) for _ in range(2)]
    times = (torch.arange(count, device=images.device) % TIMES + 0.5) / TIMES
    data = flow.normalise(compressor(images).sample(draw[0]).float())
    if seen is not None:
        seen.append(data)
    velocity = flow(objective.interpolate(data, draw[1], times), times, text_encoder(captions))
    return objective(velocity, data, draw[1], times)["flow"]
