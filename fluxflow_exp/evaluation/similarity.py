"""How like its original each reconstruction is.

PSNR; SSIM (Wang et al. 2004) and MS-SSIM (Wang, Simoncelli & Bovik 2003) by torchmetrics, Gaussian window σ = 1.5;
LPIPS (Zhang et al. 2018) by the lpips package.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fluxflow_exp.losses.perceptual import Perceptual

AT_ONCE = 16  # images: SSIM keeps ten copies of them
BORDER = 5  # pixels of SSIM's map whose window reaches beyond the image


def means(
    names: list[str],
    found: Tensor,
    target: Tensor,
    *,
    perceptual: Perceptual | None = None,
    whole: Callable[[Tensor], Tensor] = lambda values: values,
) -> dict[str, float]:
    """Name → mean over all images, as `similarity` has them; `whole` gives those of all of a rank's."""
    pairs = list(zip(torch.split(found, AT_ONCE), torch.split(target, AT_ONCE), strict=True))
    return {
        name: float(whole(torch.cat([similarity(name, *pair, perceptual=perceptual) for pair in pairs])).mean())
        for name in names
    }


def similarity(name: str, found: Tensor, target: Tensor, *, perceptual: Perceptual | None = None) -> Tensor:
    """(batch,) of `name` for images (batch, 3, height, width) in [-1, 1]; lpips needs `perceptual`."""
    if name == "psnr":
        return psnr(found, target)
    if name == "lpips":
        assert perceptual is not None
        return perceptual(found, target, torch.zeros(len(found), 2))["lpips"]
    return (ssim if name == "ssim" else ms_ssim)((found.float() + 1) / 2, (target.float() + 1) / 2)


def psnr(images: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image, (batch, 3, height, width) in [-1, 1] → (batch,)."""
    error = ((images.float() - target.float()) / 2).square().flatten(1).mean(1)
    return -10 * error.clamp_min(1e-10).log10()


def ssim(found: Tensor, target: Tensor) -> Tensor:
    """(batch,) of images in [0, 1] of at least 11 pixels a side: the mean over windows that lie within the image."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, field = structural_similarity_index_measure(
        found, target, data_range=1.0, reduction="none", return_full_image=True
    )
    inside: Tensor = field[..., BORDER:-BORDER, BORDER:-BORDER]
    return inside.flatten(1).mean(1)


def ms_ssim(found: Tensor, target: Tensor) -> Tensor:
    """(batch,) of images in [0, 1] of at least 176 pixels a side, over five scales."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    value: Tensor = multiscale_structural_similarity_index_measure(
        found, target, data_range=1.0, reduction="none", normalize="relu"
    )
    return value
