"""Distances of two sets of images in the features of a network, by torch-fidelity.

Fréchet (Heusel et al. 2017): ‖μ₁ - μ₂‖² + tr(Σ₁ + Σ₂ - 2(Σ₁Σ₂)^½) of the Gaussians with the sets' moments. It grows
as sets get smaller. Kernel (Bińkowski et al. 2018): the unbiased squared maximum mean discrepancy with the kernel
(x·y / d + 1)³, which may come out below zero.
"""

from torch import Tensor

SUBSET = 1000  # features of a set that the kernel distance takes at once, 100 times; all where there are no more


def frechet(real: Tensor, fake: Tensor) -> float:
    """Features (n, d) and (m, d), n and m at least 2."""
    from torch_fidelity import metric_fid

    moments = [metric_fid.fid_features_to_statistics(features.double().cpu()) for features in (real, fake)]
    found: float = metric_fid.fid_statistics_to_metric(*moments, verbose=False)[metric_fid.KEY_METRIC_FID]
    return found


def kernel(real: Tensor, fake: Tensor, *, seed: int = 0) -> float:
    """Features (n, d) and (m, d), n and m at least 2; of more than 1000, random subsets."""
    from torch_fidelity import metric_kid

    least = min(len(real), len(fake))
    whole = least <= SUBSET and len(real) == len(fake)
    sampled = {"kid_subsets": 1 if whole else 100, "kid_subset_size": min(SUBSET, least), "rng_seed": seed}
    both = [features.double().cpu() for features in (real, fake)]
    found: float = metric_kid.kid_features_to_metric(*both, verbose=False, **sampled)[metric_kid.KEY_METRIC_KID_MEAN]
    return found
