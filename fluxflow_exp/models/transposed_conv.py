"""A transposed convolution whose weight gradient is computed as matrix products.

cuDNN spends 0.39 s on that gradient for FluxFlow's last upsampling (16 × 16 kernel, 128 → 640 channels, 512² → 1024²,
bf16, H200): 28 TFLOP/s, where the products below reach 680 (docs/benchmarks/gpu.md). Forward pass and input gradient
are cuDNN's.

With stride 2, pixel (2r + a, 2s + b) of the output meets only the taps of one parity (a, b): four correlations of the
input with a quarter of the output's gradient each. The four quarters, moved so that the same tap of each needs the
same input pixels, stand side by side as columns; the windows of the input that a row of taps needs, as rows. One
product for each row of taps then gives that row's gradient.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight = ctx.needs_input_grad
        padding = weight.shape[-1] // 2 - 1
        found = F.conv2d(grad, weight, stride=2, padding=padding) if for_x else None
        return found, weight_gradient(x, grad, weight.shape[-1]) if for_weight else None


def weight_gradient(x: Tensor, grad: Tensor, kernel_size: int) -> Tensor:
    """The gradient (in, out, k, k) of UpConv2d's weight, for inputs x (batch, in, h, w) and output gradients grad.

    Sums are float32 for half precision; the result has grad's precision. An image at a time: the copies of one are
    8 × its input and 1 × its output gradient.
    """
    half, channels_in, channels_out = kernel_size // 2, x.shape[1], grad.shape[1]
    total: Tensor | int = 0
    for image, gradient in zip(x, grad, strict=True):
        quarters = _quarters(gradient, half)
        windows = F.pad(image, (half - 1,) * 4).permute(1, 2, 0).unfold(1, half, 1).transpose(2, 3)
        width, rows = windows.shape[1], quarters.shape[0]
        flat = windows.reshape(-1, half * channels_in)
        total = total + torch.stack([_product(flat[a * width : a * width + rows], quarters) for a in range(half)])
    assert isinstance(total, Tensor)
    # Index a is a window's first row: the tap that it meets counts from the other end.
    taps = total.view(half, half, channels_in, 2, 2, channels_out).flip(0, 1)
    weight = taps.new_empty(channels_in, channels_out, kernel_size, kernel_size)
    for vertical in (0, 1):
        for horizontal in (0, 1):
            weight[:, :, 1 - vertical :: 2, 1 - horizontal :: 2] = taps[:, :, :, vertical, horizontal].permute(
                2, 3, 0, 1
            )
    return weight.to(grad.dtype)


def _quarters(grad: Tensor, half: int) -> Tensor:
    """One image's gradient (out, 2h, 2w) → ((h + half - 1)·(w + half - 1), 4·out), its quarters by parity."""
    channels, height, width = grad.shape[0], grad.shape[1] // 2, grad.shape[2] // 2
    placed = grad.new_zeros(height + half - 1, width + half - 1, 2, 2, channels)
    last = grad.permute(1, 2, 0)
    for vertical in (0, 1):
        for horizontal in (0, 1):
            top, left = ((half - 1 + parity) // 2 for parity in (vertical, horizontal))
            rows, columns = slice(top, top + height), slice(left, left + width)
            placed[rows, columns, vertical, horizontal] = last[vertical::2, horizontal::2]
    return placed.view(-1, 4 * channels)


def _product(windows: Tensor, quarters: Tensor) -> Tensor:
    if windows.is_cuda and windows.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(windows.t(), quarters, out_dtype=torch.float32)
    return windows.t() @ quarters
