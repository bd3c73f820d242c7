"""Reconstruction weighed by frequency: smooth parts and detail apart."""

import torch.nn.functional as F
from torch import Tensor

from fluxflow_exp.config.bounds import NonNegativeFloat
from fluxflow_exp.losses.terms import Terms, per_sample


class Frequency:
    """L1 of the images blurred by a 3 × 3 mean, and L1 of what the blur takes away.

    FluxFlow sums them instead of the plain L1, with a weight of 0.5 to 1 on the detail; set the L1 of
    `reconstruction` to 0 for that. Pixels beyond the border do not count in the mean.
    """

    def __init__(self, *, low: NonNegativeFloat = 1.0, high: NonNegativeFloat = 0.5) -> None:
        if min(low, high) < 0 or low + high == 0:
            raise ValueError(f"frequency weights must be ≥ 0 and not both 0: low={low} high={high}")
        self.weights = {"l1_low": low, "l1_high": high}

    def __call__(self, reconstruction: Tensor, images: Tensor) -> Terms:
        """Both (batch, 3, height, width). Gives `l1_low` and `l1_high`, (batch,) each."""
        error = reconstruction.float() - images.float()  # the blur is linear: that of the error is the error of blurs
        low = F.avg_pool2d(error, 3, stride=1, padding=1, count_include_pad=False)
        return {"l1_low": per_sample(low.abs()), "l1_high": per_sample((error - low).abs())}
