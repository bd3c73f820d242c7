"""Pixel reconstruction losses."""

import torch
from torch import Tensor

from fluxflow_exp.config.bounds import NonNegativeFloat
from fluxflow_exp.losses.terms import Terms, per_sample

FLOOR = 1e-4  # a squared error, of 46 dB: below it, less error is hardly worth more


class Reconstruction:
    """L1 and squared error between images, averaged over a sample's pixels and channels, and the latter's logarithm.

    A weight of 0 leaves the term out of the sum; l1 and mse are still measured and logged. `log_mse` weighs
    ln(1 + mse / 1e-4), the likelihood of a normal distribution that has each sample's own best deviation (σ-VAE;
    Rybkin et al. 2021, arXiv 2006.13202), and what a mean of PSNR over samples is made of.
    """

    def __init__(
        self, *, l1: NonNegativeFloat = 1.0, mse: NonNegativeFloat = 1.0, log_mse: NonNegativeFloat = 0.0
    ) -> None:
        if min(l1, mse, log_mse) < 0 or l1 + mse + log_mse == 0:
            raise ValueError(f"reconstruction weights must be ≥ 0 and not all 0: l1={l1} mse={mse} log_mse={log_mse}")
        self.weights = {"l1": l1, "mse": mse} | ({"log_mse": log_mse} if log_mse else {})

    def __call__(self, reconstruction: Tensor, images: Tensor) -> Terms:
        """Both (batch, 3, height, width), images in [-1, 1]. Gives `l1`, `mse` and `log_mse`, (batch,) each."""
        error = reconstruction.float() - images.float()
        terms = {"l1": per_sample(error.abs()), "mse": per_sample(error.square())}
        return terms | ({"log_mse": torch.log1p(terms["mse"] / FLOOR)} if "log_mse" in self.weights else {})
