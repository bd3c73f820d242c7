"""Pixels of an image laid side by side, for convolutions' gradients as matrix products; on a GPU by kernels of ours.

There torch copies such views at a third of the memory's rate (docs/benchmarks/gpu.md).
"""

import torch
from torch import Tensor

Taps = list[tuple[int, int]]  # (y, x)


def windows(image: Tensor, taps: Taps, *, size: tuple[int, int], step: int = 1) -> Tensor:
    """(channels, h, w) → (height·width, taps·channels) for `size` (height, width).

    Pixel (y, x) gets image[:, step·y + tap_y, step·x + tap_x] for each tap; what lies outside is zero.
    """
    (height, width), (channels, most_y, most_x) = size, image.shape
    if image.is_cuda:
        from fluxflow_exp.models import windows_triton

        last = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        found: Tensor = windows_triton.windows(last, [at for tap in taps for at in tap], step, height, width)
        return found
    shifts = torch.tensor(taps)
    y = (step * torch.arange(height)[:, None, None] + shifts[:, 0]).expand(height, width, -1)
    x = (step * torch.arange(width)[:, None] + shifts[:, 1]).expand(height, width, -1)
    inside = (y >= 0) & (y < most_y) & (x >= 0) & (x < most_x)
    picked = image.permute(1, 2, 0)[y.clamp(0, most_y - 1), x.clamp(0, most_x - 1)]
    return (picked * inside[..., None]).view(height * width, len(taps) * channels)


def add_moved(total: Tensor, made: Tensor, taps: int) -> None:
    """Add to total (height, width, channels) at (y, x) the sum over taps b of what `made` has for b at (y, x + b).

    `made` is (height·(width + taps - 1), taps·channels).
    """
    if total.is_cuda:
        from fluxflow_exp.models import windows_triton

        windows_triton.add_moved(total, made, taps)
        return
    height, width, channels = total.shape
    step = taps * channels
    moved = made.as_strided((height, width, taps, channels), ((width + taps - 1) * step, step, step + channels, 1))
    total += moved.sum(2, dtype=total.dtype)
