"""Kullback-Leibler divergence of a diagonal Gaussian posterior from the unit Gaussian."""

import math

from torch import Tensor

from fluxflow_exp.config.bounds import NonNegativeFloat
from fluxflow_exp.losses.terms import Terms


class KL:
    """KL(N(mean, exp(logvar)) ‖ N(0, 1)) in nats (Kingma & Welling 2014, appendix B), with warm-up and free bits.

    The divergence is averaged over a sample's latent positions and summed over channels, so that `weight` keeps its
    meaning when the image size changes. `free_bits` (nats a channel; Kingma et al. 2016, eq. 15) is a floor on each
    sample's channel mean: a channel below it gets no gradient. β rises from 0 to `weight` by half a cosine over
    `warmup`: a share of the step's updates when ≤ 1, else a number of updates.
    """

    def __init__(
        self, *, weight: NonNegativeFloat = 1e-4, warmup: NonNegativeFloat = 0.0, free_bits: NonNegativeFloat = 0.0
    ) -> None:
        if min(weight, warmup, free_bits) < 0:
            raise ValueError(f"kl: weight, warmup and free_bits must be ≥ 0: {weight}, {warmup}, {free_bits}")
        self.weight, self.warmup, self.free_bits = weight, warmup, free_bits
        self.summed = "kl_floored" if free_bits else "kl"  # the term that `beta` weighs

    def beta(self, update: int, *, updates: int) -> float:
        """The weight at `update` of a step of `updates`."""
        rise = self.warmup * updates if self.warmup <= 1 else self.warmup
        if update >= rise:
            return self.weight
        return self.weight * 0.5 * (1 - math.cos(math.pi * update / rise))

    def __call__(self, mean: Tensor, logvar: Tensor) -> Terms:
        """Both (batch, channels, h, w). Gives `kl` and, with free bits, `kl_floored`; (batch,) each."""
        mean, logvar = mean.float(), logvar.float()
        element = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
        channel = element.flatten(2).mean(2)
        terms = {"kl": channel.sum(1)}
        if self.free_bits:
            terms["kl_floored"] = channel.clamp_min(self.free_bits).sum(1)
        return terms
