"""A dilated convolution whose weight gradient is computed as matrix products.

cuDNN reaches 380 TFLOP/s on that gradient for FluxFlow's 5 × 5 kernels (128 → 640 channels, dilation 2, bf16, H200),
and the products about twice that (docs/benchmarks/gpu.md). The forward pass and the input's gradient are cuDNN's.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxflow_exp.models.layers import Conv2d
from fluxflow_exp.models.products import product
from fluxflow_exp.models.windows import windows


class DilatedConv2d(Conv2d):
    """Keeps height and width: an odd `kernel_size`, zeros around the image."""

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int, *, dilation: int) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"DilatedConv2d: kernel_size must be odd, not {kernel_size}")
        margin = dilation * (kernel_size // 2)
        super().__init__(channels_in, channels_out, kernel_size, padding=margin, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cuda:
            return super().forward(x)
        convolved, bias = self.split(x)
        assert bias is not None
        return convolved + bias.to(convolved.dtype).view(-1, 1, 1)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        kind = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
        return _Dilated.apply(x.to(kind), self.weight.to(kind), self.dilation[0]), self.bias


class _Dilated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return F.conv2d(x, weight, padding=dilation * (weight.shape[-1] // 2), dilation=dilation)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x, weight), dilation = ctx.saved_tensors, ctx.dilation
        for_x, for_weight, _ = ctx.needs_input_grad
        found = input_gradient(x, weight, grad, dilation) if for_x else None
        return found, weight_gradient(x, grad, weight.shape[-1], dilation) if for_weight else None, None


def input_gradient(x: Tensor, weight: Tensor, grad: Tensor, dilation: int) -> Tensor:
    """cuDNN's, of as many images at once as have elements that 32 bits can number: with more it is thrice as slow."""
    margin = dilation * (weight.shape[-1] // 2)
    images = max(1, (2**31 - 1) // grad[0].numel())
    made = [
        torch.ops.aten.convolution_backward(
            part, of, weight, None, [1, 1], [margin] * 2, [dilation] * 2, False, [0, 0], 1, [True, False, False]
        )[0]
        for part, of in zip(torch.split(grad, images), torch.split(x, images), strict=True)
    ]
    return made[0] if len(made) == 1 else torch.cat(made)


def weight_gradient(x: Tensor, grad: Tensor, kernel_size: int, dilation: int) -> Tensor:
    """(out, in, k, k) for inputs x (batch, in, h, w) and output gradients grad (batch, out, h, w), in grad's precision.

    An image at a time: its windows take kernel_size × its memory. A row of taps is one product.
    """
    margin, total = dilation * (kernel_size // 2), torch.zeros((), device=x.device)
    for image, gradient in zip(x, grad, strict=True):
        height, width = image.shape[1:]
        taps = [(-margin, dilation * column - margin) for column in range(kernel_size)]
        flat = windows(image, taps, size=(height + 2 * margin, width))
        columns = gradient.permute(1, 2, 0).reshape(height * width, -1)
        firsts = [row * dilation * width for row in range(kernel_size)]
        total = total + torch.stack([product(flat[first : first + height * width], columns) for first in firsts])
    by_tap = total.view(kernel_size, kernel_size, x.shape[1], grad.shape[1])
    return by_tap.permute(3, 2, 0, 1).to(grad.dtype)
