"""Where a flow step's latents and tokens come from: encoded at each use, or read from a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxflow_exp.data.cache import LatentCache
from fluxflow_exp.data.loader import Batch
from fluxflow_exp.models.layers import to_device
from fluxflow_exp.models.posterior import Posterior
from fluxflow_exp.models.text_encoder import Text
from fluxflow_exp.trainers.phase import Micro

if TYPE_CHECKING:
    from fluxflow_exp.trainers.flow import FlowTrainer


class Encoded:
    """Batches hold images and captions."""

    def __init__(self, trainer: FlowTrainer) -> None:
        self.trainer = trainer

    def size(self, batch: Batch) -> tuple[int, int]:
        """Height and width of its latents."""
        height, width = batch.images.shape[-2:]
        return height // self.trainer.compressor.downscale, width // self.trainer.compressor.downscale

    def inputs(self, batch: Batch) -> Tensor:
        return self.trainer.to_device(batch.images)

    def posterior(self, inputs: Tensor) -> Posterior:
        found: Posterior = self.trainer.compressor(inputs)
        return found

    def begin_update(self, batch: Batch) -> None:
        """Take this rank's share of the global batch."""

    def text(self, micro: Micro, dropped: list[bool]) -> tuple[Tensor, ...]:
        """Of each caption, or of the empty one where it is dropped: a Text, or what a trained encoder encodes."""
        captions = ["" if drop else caption for caption, drop in zip(micro.captions, dropped, strict=True)]
        encoder = self.trainer.text_encoder
        found: tuple[Tensor, ...] = (encoder.tokenise if self.trainer.trains_text else encoder)(captions)
        return found


class Cached(Encoded):
    """Batches hold moments and, where the text encoder is frozen, tokens."""

    def __init__(self, trainer: FlowTrainer, cache: LatentCache) -> None:
        super().__init__(trainer)
        device = trainer.machine.device
        self.empty = cache.tokens.read([""]).tokens[0].to(device).float() if cache.tokens else None  # (length, width)

    def size(self, batch: Batch) -> tuple[int, int]:
        height, width = batch.images.shape[-2:]
        return height, width

    def inputs(self, batch: Batch) -> Tensor:
        return batch.images.to(self.trainer.machine.device, non_blocking=True).float()

    def posterior(self, inputs: Tensor) -> Posterior:
        found: Posterior = self.trainer.compressor.posterior(inputs)
        return found

    def begin_update(self, batch: Batch) -> None:
        if batch.tokens is not None:
            self.lengths = batch.tokens.lengths
            self.tokens = batch.tokens.tokens.to(self.trainer.machine.device, non_blocking=True)

    def text(self, micro: Micro, dropped: list[bool]) -> tuple[Tensor, ...]:
        if self.empty is None:
            return super().text(micro, dropped)
        short = len(self.empty)
        lengths = [short if drop else length for length, drop in zip(self.lengths[micro.share], dropped, strict=True)]
        longest = max(lengths)
        tokens = self.tokens[micro.share, :longest].float()
        device = tokens.device
        empty = F.pad(self.empty, (0, 0, 0, longest - short))
        tokens = torch.where(to_device(torch.tensor(dropped), device)[:, None, None], empty, tokens)
        mask = torch.arange(longest, device=device) < to_device(torch.tensor(lengths), device)[:, None]
        return Text(tokens, mask)
