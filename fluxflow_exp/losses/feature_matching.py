"""Feature matching (Wang et al. 2018, pix2pixHD, section 3.2): alike to every layer of the discriminator."""

import torch
from torch import Tensor

from fluxflow_exp.config.bounds import PositiveFloat
from fluxflow_exp.losses.terms import Terms, per_sample


class FeatureMatching:
    """`weight` × L1 between the discriminator's features of reconstructions and of images, averaged over layers."""

    def __init__(self, *, weight: PositiveFloat = 1.0) -> None:
        if weight <= 0:
            raise ValueError(f"feature_matching: weight must be positive, not {weight}")
        self.weight = weight

    def __call__(self, fake: list[Tensor], real: list[Tensor]) -> Terms:
        """Features (batch, channels, h, w) of each layer. Gives `feature_matching`, (batch,)."""
        layers = [per_sample((f.float() - r.float()).abs()) for f, r in zip(fake, real, strict=True)]
        return {"feature_matching": torch.stack(layers).mean(0)}
