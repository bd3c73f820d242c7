"""LeCam regularisation of a discriminator (Tseng et al. 2021), for small data sets."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxflow_exp.config.bounds import PositiveFloat, ShareBelowOne
from fluxflow_exp.losses.terms import Terms, per_sample


class LeCam:
    """Keeps logits of images near the running mean of fakes' logits, and the other way round (eq. 4).

    `decay` is that of the two running means, which follow once an update over the global batch. They start as the
    first update's own; that update is not penalised.
    """

    def __init__(self, *, weight: PositiveFloat = 0.01, decay: ShareBelowOne = 0.99) -> None:
        if weight <= 0 or not 0 <= decay < 1:
            raise ValueError(f"lecam: weight must be positive and decay in [0, 1), not {weight}, {decay}")
        self.weight, self.decay = weight, decay
        self.anchors: Tensor | None = None  # running means of real and fake logits, (2,)
        self.seen: Tensor | None = None  # (share, 2): means of the logits of this update's samples

    def __call__(self, real_logits: Tensor, fake_logits: Tensor, anchors: Tensor) -> Terms:
        """Logits (batch, 1, h, w) each; the running means (2,), or empty before the first.

        Gives `lecam`, (batch,), and `lecam_seen`, (batch, 2): what `seen` is to be, of all micro-batches.
        """
        real, fake = real_logits.float(), fake_logits.float()
        seen = torch.stack([per_sample(real.detach()), per_sample(fake.detach())], 1)
        if not len(anchors):
            return {"lecam": 0.0 * (per_sample(real) + per_sample(fake)), "lecam_seen": seen}
        anchor_real, anchor_fake = anchors
        penalty = per_sample(F.relu(real - anchor_fake).square()) + per_sample(F.relu(anchor_real - fake).square())
        return {"lecam": penalty, "lecam_seen": seen}

    def end_update(self, over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Move the running means by this update's logits; `over_ranks` averages over the ranks' equal shares."""
        if self.seen is not None:
            means = over_ranks(self.seen.t().contiguous().mean(1))
            self.anchors = means if self.anchors is None else torch.lerp(means, self.anchors, self.decay)
            self.seen = None
