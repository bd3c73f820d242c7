"""Distances of two sets of images in the features of a network, by torchmetrics.

Fréchet (Heusel et al. 2017): ‖μ₁ - μ₂‖² + tr(Σ₁ + Σ₂ - 2(Σ₁Σ₂)^½) of the Gaussians with the sets' moments. It grows
as sets get smaller. Kernel (Bińkowski et al. 2018): the unbiased squared maximum mean discrepancy with the kernel
(x·y / d + 1)³, which may come out below zero.
"""

import warnings

import torch
from torch import Tensor, nn

SUBSET = 1000  # features of a set that the kernel distance takes at once, 100 times; all where there are no more


def frechet(real: Tensor, fake: Tensor) -> float:
    """Features (n, d) and (m, d), n and m at least 2."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given(real.shape[1])).set_dtype(torch.float64)
    metric.update(real.double().cpu(), real=True)
    metric.update(fake.double().cpu(), real=False)
    return float(metric.compute())


def kernel(real: Tensor, fake: Tensor, *, seed: int = 0) -> float:
    """Features (n, d) and (m, d), n and m at least 2; of more than 1000, random subsets."""
    from torchmetrics.image.kid import KernelInceptionDistance

    least = min(len(real), len(fake))
    whole = least <= SUBSET and len(real) == len(fake)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # that it keeps all features
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(
            feature=_Given(real.shape[1]), subsets=1 if whole else 100, subset_size=min(SUBSET, least)
        )
        metric.update(real.double().cpu(), real=True)
        metric.update(fake.double().cpu(), real=False)
        mean, _ = metric.compute()
    return float(mean)


class _Given(nn.Module):
    """Passes on features that were made before: both distances, and several sets, share them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features
