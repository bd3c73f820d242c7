"""Where a flow step's latents and tokens come from: encoded at each use, or read from a cache."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow_exp.data.cache import DrawnCache, LatentCache
from fluxflow_exp.data.loader import Batch
from fluxflow_exp.data.token_formats import unpacked
from fluxflow_exp.losses.augmentation import Drawn, changed
from fluxflow_exp.machine.hardware import Machine
from fluxflow_exp.models.layers import to_device
from fluxflow_exp.models.posterior import Posterior
from fluxflow_exp.models.text_encoder import Text
from fluxflow_exp.seeding import generator
from fluxflow_exp.trainers.context import StepContext
from fluxflow_exp.trainers.phase import Micro
from fluxflow_exp.trainers.recent_texts import RecentTexts


class Encoded:
    """Batches hold images and captions."""

    recent: RecentTexts | None = None  # of a frozen text encoder, where it may keep some

    def __init__(self, machine: Machine, parts: dict[str, Any], *, trains_text: bool) -> None:
        self.machine, self.trains_text = machine, trains_text
        self.compressor, self.text_encoder = parts["compressor"], parts["text_encoder"]

    @property
    def has_tokens(self) -> bool:
        """Whether batches hold every caption's tokens."""
        return False

    def size(self, batch: Batch) -> tuple[int, int]:
        """Height and width of its latents."""
        height, width = batch.images.shape[-2:]
        return height // self.compressor.downscale, width // self.compressor.downscale

    def inputs(self, batch: Batch, drawn: Drawn | None = None) -> Tensor:
        """What `posterior` takes of its pictures, or of the views of them that were drawn."""
        images = self.machine.to_device(batch.images)
        if drawn is None:
            return images
        return torch.where(drawn.views[:, None, None, None] > 0, changed(images, drawn.changes), images)

    def posterior(self, inputs: Tensor) -> Posterior:
        found: Posterior = self.compressor(inputs)
        return found

    def begin_update(self, batch: Batch) -> None:
        """Take this rank's share of the global batch."""

    def text(self, micro: Micro, dropped: list[bool]) -> tuple[Tensor, ...]:
        """A Text of each caption, or of the empty one where it is dropped; or what a trained encoder encodes."""
        captions = ["" if drop else caption for caption, drop in zip(micro.captions, dropped, strict=True)]
        encode = self.recent or (self.text_encoder.tokenise if self.trains_text else self.text_encoder)
        found: tuple[Tensor, ...] = encode(captions)
        return found


class Cached(Encoded):
    """Batches hold moments, of so many `views` of each picture, and, where the text encoder is frozen, tokens."""

    def __init__(
        self,
        cache: LatentCache | DrawnCache,
        machine: Machine,
        parts: dict[str, Any],
        *,
        trains_text: bool,
        views: int = 1,
    ) -> None:
        super().__init__(machine, parts, trains_text=trains_text)
        self.views = views
        empty = cache.tokens.read([""]).tokens[0] if cache.tokens else None
        self.empty = unpacked(empty.to(machine.device)) if empty is not None else None  # (length, width)

    @property
    def has_tokens(self) -> bool:
        return self.empty is not None

    def size(self, batch: Batch) -> tuple[int, int]:
        height, width = batch.images.shape[-2:]
        return height, width

    def inputs(self, batch: Batch, drawn: Drawn | None = None) -> Tensor:
        moments = batch.images.to(self.machine.device, non_blocking=True)
        if self.views > 1:
            views = moments.reshape(len(moments), self.views, -1, *moments.shape[2:])
            rows = torch.arange(len(views), device=views.device)
            moments = views[:, 0] if drawn is None else views[rows, drawn.views]
        return moments.float()

    def posterior(self, inputs: Tensor) -> Posterior:
        found: Posterior = self.compressor.posterior(inputs)
        return found

    def begin_update(self, batch: Batch) -> None:
        if batch.tokens is not None:
            self.lengths = batch.tokens.lengths
            self.tokens = batch.tokens.tokens.to(self.machine.device, non_blocking=True)

    def text(self, micro: Micro, dropped: list[bool]) -> tuple[Tensor, ...]:
        if self.empty is None:
            return super().text(micro, dropped)
        short = len(self.empty)
        lengths = [short if drop else length for length, drop in zip(self.lengths[micro.share], dropped, strict=True)]
        longest = max(lengths)
        tokens = unpacked(self.tokens[micro.share, :longest])
        device = tokens.device
        empty = F.pad(self.empty, (0, 0, 0, longest - short))
        tokens = torch.where(to_device(torch.tensor(dropped), device)[:, None, None], empty, tokens)
        mask = torch.arange(longest, device=device) < to_device(torch.tensor(lengths), device)[:, None]
        return Text(tokens, mask)


def statistics(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation, (channels,), on the CPU, of latents (n, channels, h, w) that come in `parts`."""
    means, squares = [], []
    for part in parts:
        latents = part.double()
        means.append(latents.mean((2, 3)))
        squares.append(latents.square().mean((2, 3)))
    mean = torch.cat(means).mean(0)
    deviation = (torch.cat(squares).mean(0) - mean.square()).sqrt()
    return mean.cpu(), deviation.clamp_min(1e-4).cpu()


def check_width(text_encoder: nn.Module, flow: Any) -> None:
    """ValueError: the text encoder's tokens are not as wide as the flow transformer takes them."""
    width = text_encoder(["a"]).tokens.shape[-1]
    if width != flow.text_dim:
        raise ValueError(
            f"the text encoder gives tokens of {width} channels, but model.text_dim={flow.text_dim}: "
            f"set model.text_dim={width}"
        )


def drops(setup: StepContext, update: int, count: int) -> list[bool]:
    """Which captions of the global batch of `update`, of `count` samples, are replaced by the empty one."""
    source = generator(setup.seed, setup.name, update, "drop")
    return (torch.rand(count, generator=source) < setup.cfg_dropout_prob).tolist()
