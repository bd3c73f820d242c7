"""Measures of reconstructions against reference implementations, each to the tolerance that stands there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fluxflow_exp.evaluation.similarity import means, ms_ssim, psnr, similarity, ssim
from fluxflow_exp.losses.perceptual import Perceptual
from tests.helpers.packages import skip_without

skip_without("torchmetrics")
metrics = pytest.importorskip("skimage.metrics")
data = pytest.importorskip("skimage.data")


def test_psnr_of_a_known_error():
    target = torch.zeros(2, 3, 4, 4)
    images = torch.stack([torch.full((3, 4, 4), 0.2), torch.full((3, 4, 4), 2.0)])
    assert psnr(images, target).tolist() == pytest.approx([20.0, 0.0])
    assert psnr(target, target).tolist() == pytest.approx([100.0, 100.0])


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    """Two photographs of 192 pixels in [-1, 1], and the same with noise."""
    images = [torch.from_numpy(photo()[:192, :192]).permute(2, 0, 1) for photo in (data.astronaut, data.coffee)]
    target = torch.stack(images).float() / 127.5 - 1
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    return (target + 0.1 * noise).clamp(-1, 1), target


def as_numpy(images: Tensor) -> list[np.ndarray]:
    return [((image.double() + 1) / 2).permute(1, 2, 0).numpy() for image in images]


def test_psnr_is_scikit_images_to_a_ten_thousandth_of_a_decibel(pair: tuple[Tensor, Tensor]) -> None:
    theirs = [metrics.peak_signal_noise_ratio(b, a, data_range=1) for a, b in zip(*map(as_numpy, pair), strict=True)]
    assert similarity("psnr", *pair).tolist() == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("side", [192, 16])
def test_ssim_is_scikit_images_to_a_hundred_thousandth(pair: tuple[Tensor, Tensor], side: int) -> None:
    found, target = (images[..., 50 : 50 + side, 50 : 50 + side] if side == 16 else images for images in pair)
    theirs = [
        metrics.structural_similarity(
            a, b, data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for a, b in zip(as_numpy(found), as_numpy(target), strict=True)
    ]
    assert similarity("ssim", found, target).tolist() == pytest.approx(theirs, abs=1e-5)


def test_ms_ssim_is_one_for_equal_images_and_falls_with_noise(pair: tuple[Tensor, Tensor]) -> None:
    found, target = ((images + 1) / 2 for images in pair)
    assert ms_ssim(target, target).tolist() == pytest.approx([1, 1], abs=1e-6)
    worse = (target + 0.3 * torch.randn(target.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert bool((ms_ssim(worse, target) < ms_ssim(found, target)).all())
    # Noise vanishes at coarser scales, where MS-SSIM has most of its weight.
    assert bool((ms_ssim(found, target) > ssim(found, target)).all())


def test_ms_ssim_does_without_the_images_that_are_too_small() -> None:
    with pytest.raises(ValueError, match="height must be larger than 160"):
        ms_ssim(torch.rand(1, 3, 175, 175), torch.rand(1, 3, 175, 175))
    assert ms_ssim(torch.rand(1, 3, 176, 176), torch.rand(1, 3, 176, 176)).shape == (1,)


def test_lpips_is_the_lpips_packages_bit_for_bit(pair: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    import lpips

    found, target = (images[..., :64, :64] for images in pair)
    torch.manual_seed(0)
    theirs = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False).eval()
    mine = similarity("lpips", found, target, perceptual=Perceptual(net="squeeze", pretrained=False))
    assert torch.equal(mine, theirs(found, target).flatten().detach())
    assert (mine > 0).all()


def test_means_do_not_depend_on_how_many_are_compared_at_once(pair: tuple[Tensor, Tensor]) -> None:
    many = [images[..., :16, :16].repeat(10, 1, 1, 1) for images in pair]
    few = means(["psnr", "ssim"], pair[0][..., :16, :16], pair[1][..., :16, :16])
    assert means(["psnr", "ssim"], *many) == pytest.approx(few, rel=1e-6)
