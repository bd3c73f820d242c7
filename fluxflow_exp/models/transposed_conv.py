"""A transposed convolution whose gradients are computed as matrix products.

For FluxFlow's last upsampling (16 × 16 kernel, 128 → 640 channels, 512² → 1024², bf16, H200) cuDNN spends 380 ms on the
weight's gradient and 26 ms on the input's, and 19 ms on the input's at 64²; the products below take a small part of it
(docs/benchmarks/gpu.md). The forward pass is cuDNN's.

With stride 2, pixel (2r + a, 2s + b) of the output meets only the taps of one parity (a, b): four correlations with a
quarter of the output's gradient each. The four quarters, moved so that the same tap of each needs the same input
pixels, stand side by side as columns. Their product with the windows of the input that a row of taps needs is that
row's weight gradient; their product with the row's weights, moved by each tap and summed, is the input's gradient.
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow_exp.models.products import product, sum_type, wide
from fluxflow_exp.models.windows import add_moved, windows


class UpConv2d(nn.ConvTranspose2d):
    """Doubles height and width: `kernel_size` even, stride 2, padding kernel_size/2 - 1 (odd)."""

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int) -> None:
        padding = kernel_size // 2 - 1
        if kernel_size % 4:  # an odd padding needs a kernel of 4, 8, 12, …
            raise ValueError(f"UpConv2d: kernel_size must be a multiple of 4, not {kernel_size}")
        super().__init__(channels_in, channels_out, kernel_size, stride=2, padding=padding)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        assert output_size is None
        if not x.is_cuda:
            return super().forward(x)
        convolved, bias = self.split(x)
        return convolved + bias.to(convolved.dtype).view(-1, 1, 1)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The convolution without its bias, and the bias that is to be added to its channels."""
        assert self.bias is not None
        kind = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
        return _UpConv.apply(x.to(kind), self.weight.to(kind)), self.bias


class _UpConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv_transpose2d(x, weight, stride=2, padding=weight.shape[-1] // 2 - 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        return gradients(x, weight, grad, wanted=ctx.needs_input_grad)


def gradients(
    x: Tensor, weight: Tensor, grad: Tensor, *, wanted: tuple[bool, bool] = (True, True)
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of input and weight of UpConv2d, for output gradients `grad` (batch, out, 2h, 2w).

    Sums are float32 for half precision; the results have grad's precision. An image at a time: the copies of one are
    8 × its input and 1 × its output gradient, and what a row of taps gives for the input is 8 × that.
    """
    half = weight.shape[-1] // 2
    taps = _taps(weight)
    for_x, total = [], torch.zeros((), device=x.device)
    for image, gradient in zip(x, grad, strict=True):
        quarters = _quarters(gradient, half)
        if wanted[0]:
            for_x.append(_input_gradient(quarters, taps, image.shape))
        if wanted[1]:
            total = total + _weight_gradient(image, quarters, half)
    found = torch.stack(for_x).permute(0, 3, 1, 2) if wanted[0] else None
    return found, _untapped(total, weight) if wanted[1] else None


def _input_gradient(quarters: Tensor, taps: Tensor, shape: torch.Size) -> Tensor:
    """(h, w, in): the sum over taps of the quarters, moved by the tap, times its weights."""
    (channels, height, width), half = shape, taps.shape[0]
    across = width + half - 1
    total = torch.zeros(height, width, channels, device=quarters.device, dtype=sum_type(quarters))
    for a in range(half):  # a row of taps: one product gives all its taps, each to be moved by another distance
        first = (half - 1 - a) * across
        add_moved(total, quarters[first : first + height * across] @ taps[a], half)
    return total.to(quarters.dtype)


def _weight_gradient(image: Tensor, quarters: Tensor, half: int) -> Tensor:
    """(half, half·in, 4·out): rows of taps; a window's first row counts them from the other end."""
    margin = half - 1
    height, width, rows = image.shape[1] + 2 * margin, image.shape[2] + margin, quarters.shape[0]
    flat = windows(image, [(-margin, b - margin) for b in range(half)], size=(height, width))
    return torch.stack([product(flat[a * width : a * width + rows], quarters) for a in range(half)])


def _taps(weight: Tensor) -> Tensor:
    """(in, out, k, k) → (half, 4·out, half·in): for each row a of taps, what the quarters are multiplied with."""
    channels_in, channels_out, kernel_size, _ = weight.shape
    half = kernel_size // 2
    last = wide(weight.permute(0, 2, 3, 1).contiguous())  # a view where channels are innermost already
    pairs = last.view(channels_in, half, 2, half, 2, -1)  # the first of a pair meets odd pixels
    # Rows run as windows do, from the other end; columns as they are moved: by b to the right.
    ordered = pairs.permute(1, 3, 0, 2, 4, 5).flip(0)  # half, half, in, 2, 2, out
    return ordered.contiguous().view(weight.dtype).view(half, half * channels_in, 4 * channels_out).transpose(1, 2)


def _untapped(total: Tensor, weight: Tensor) -> Tensor:
    """The gradient of the weight, (in, out, k, k), from the sums of `_weight_gradient`."""
    channels_in, channels_out, kernel_size, _ = weight.shape
    half = kernel_size // 2
    taps = total.view(half, half, channels_in, 2, 2, channels_out).flip(0, 1)
    return taps.permute(2, 5, 0, 3, 1, 4).reshape(weight.shape).to(weight.dtype)


def _quarters(grad: Tensor, half: int) -> Tensor:
    """One image's gradient (out, 2h, 2w) → ((h + half - 1)·(w + half - 1), 4·out): quarters by parity, odd first."""
    height, width = grad.shape[1] // 2 + half - 1, grad.shape[2] // 2 + half - 1
    first = [parity - 2 * ((half - 1 + parity) // 2) for parity in (1, 0)]  # so that a tap needs the same pixels
    return windows(grad, list(itertools.product(first, first)), size=(height, width), step=2)
