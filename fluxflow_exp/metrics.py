"""Measures of held-out quality."""

from torch import Tensor


def psnr(images: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image, (batch, 3, height, width) in [-1, 1] → (batch,)."""
    error = ((images.float() - target.float()) / 2).square().flatten(1).mean(1)
    return -10 * error.clamp_min(1e-10).log10()
