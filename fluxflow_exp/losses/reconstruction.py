"""Pixel reconstruction losses."""

from torch import Tensor

from fluxflow_exp.config.bounds import NonNegativeFloat
from fluxflow_exp.losses.terms import Terms, per_sample


class Reconstruction:
    """L1 and squared error between images, averaged over a sample's pixels and channels.

    A weight of 0 leaves the term out of the sum; it is still measured and logged.
    """

    def __init__(self, *, l1: NonNegativeFloat = 1.0, mse: NonNegativeFloat = 1.0) -> None:
        if min(l1, mse) < 0 or l1 + mse == 0:
            raise ValueError(f"reconstruction weights must be ≥ 0 and not both 0: l1={l1} mse={mse}")
        self.weights = {"l1": l1, "mse": mse}

    def __call__(self, reconstruction: Tensor, images: Tensor) -> Terms:
        """Both (batch, 3, height, width), images in [-1, 1]. Gives `l1` and `mse`, (batch,) each."""
        error = reconstruction.float() - images.float()
        return {"l1": per_sample(error.abs()), "mse": per_sample(error.square())}
