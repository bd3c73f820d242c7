"""Layers that several models share."""

import hashlib
from abc import ABCMeta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fluxflow_exp.models.bezier import BezierActivation

ALIGNMENT = 8  # channels: what matrix units take in half precision

ActivationName = Literal["bezier", "silu", "gelu", "relu"]


def make_activation(name: ActivationName, *, dim: int) -> tuple[nn.Module, int]:
    """An activation over channel dimension `dim`, and how many channels it takes for each one that it gives."""
    if name == "bezier":
        return BezierActivation(dim=dim), 5
    return {"silu": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU}[name](), 1


class Region(nn.Module, metaclass=ABCMeta):
    """A module that `torch.compile` takes as one piece, where `hardware.compile` asks for it.

    A class of another library becomes one by `Region.register`.
    """


class Chain(nn.Sequential, Region):
    """Layers that are compiled together."""

    def forward(self, x: Tensor) -> Tensor:  # torch's own is not looked into by its compiler
        for layer in self:
            x = layer(x)
        return x


def set_up_compilation(*, exact: bool) -> None:
    """Torch's settings for regions, once a process. `exact`: kernels are chosen by rule, not by their speed."""
    import torch._dynamo
    import torch._functorch.config
    import torch._inductor.config
    import torch.compiler.config

    # Its caches know our operators by their names alone, and would give the code that an earlier version of one had.
    tag = digest_of_kernels(Path(__file__).parent)
    if tag not in torch.compiler.config.cache_key_tag:
        torch.compiler.config.cache_key_tag += tag
    # A region's kinds and shapes are few and known; each is compiled for itself, at full speed.
    torch._dynamo.config.recompile_limit = 128
    torch._dynamo.config.accumulated_recompile_limit = 1024
    # An adaptive GAN weight walks the last region's graph twice. Torch 2.11 compiles a region's backward pass at the
    # first walk, and for a step without a GAN as one that may reuse what was saved: the second walk is then an error.
    torch._functorch.config.donated_buffer = False
    if exact:
        torch._inductor.config.deterministic = True


def digest_of_kernels(folder: Path) -> str:
    """SHA-256 of the modules of kernels in `folder`, hexadecimal."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*_triton.py")):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def compile_regions(model: nn.Module) -> None:
    """Compile each outermost region of `model` in place: calls and names of tensors stay as they are.

    Regions of the same kind and shape share what is compiled. A shape is compiled when it is first met.
    """
    if isinstance(model, Region):
        model.compile(dynamic=False)
        return
    for child in model.children():
        compile_regions(child)


class Conv2d(nn.Conv2d):
    """A convolution whose bias can be left to the activation after it."""

    def split(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The convolution without its bias, and the bias that is to be added to its channels."""
        convolved: Tensor = self._conv_forward(x, self.weight, None)
        return convolved, self.bias


class ConvActivation(nn.Sequential):
    """A convolution with `split`, and its activation."""

    def forward(self, x: Tensor) -> Tensor:
        convolution, activation = self
        return activate(convolution, activation, x)


def activate(convolution: nn.Module, activation: nn.Module, x: Tensor) -> Tensor:
    """activation(convolution(x)); the Bezier kernel of GPUs adds the bias, which saves a pass over memory."""
    if x.is_cuda and isinstance(activation, BezierActivation):
        activated: Tensor = activation(*convolution.split(x))  # type: ignore[operator]
    else:
        activated = activation(convolution(x))
    return activated


class AlignedConv2d(Conv2d):
    """A convolution of any number of channels that a GPU computes with multiples of 8.

    There the missing ones are zeros: in the input, in the weight, and so in the output, which keeps them (a Bezier
    activation takes quintuples, so its five times as many are a multiple of 40). Bezier, SiLU, GELU and ReLU make zeros
    of zeros, and the next such convolution takes them as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.aligned(x) if x.is_cuda else super().forward(x)

    def aligned(self, x: Tensor) -> Tensor:
        """(batch, channels in, …) → (batch, channels out, …), the channels of both up to the next multiple."""
        convolved, bias = self.split(x)
        return convolved if bias is None else convolved + bias.to(convolved.dtype).view(-1, 1, 1)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        x, weight, bias = self.filled(x)
        convolved: Tensor = self._conv_forward(x, weight, None)
        return convolved, bias

    def filled(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """x, weight and bias with the zeros that are missing."""
        step = 5 * ALIGNMENT if self.out_channels % 5 == 0 else ALIGNMENT
        x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % ALIGNMENT))
        more_in, more_out = x.shape[1] - self.in_channels, -self.out_channels % step
        weight = F.pad(self.weight, (0, 0, 0, 0, 0, more_in, 0, more_out))
        return x, weight, None if self.bias is None else F.pad(self.bias, (0, more_out))


class DownConv2d(AlignedConv2d):
    """Halves height and width: an even `kernel_size`, stride 2, padding kernel_size/2 - 1.

    A GPU does it as a convolution of half the kernel over 2 × 2 pixels side by side as channels: without a stride its
    gradients are several times as fast.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int) -> None:
        if kernel_size % 2:
            raise ValueError(f"DownConv2d: kernel_size must be even, not {kernel_size}")
        super().__init__(channels_in, channels_out, kernel_size, stride=2, padding=kernel_size // 2 - 1)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        x, weight, bias = self.filled(x)
        margin = self.kernel_size[0] // 2 - 1
        odd = margin % 2  # the first pixel of a window is then the second of a pair
        pairs = F.pad(x, (odd,) * 4).permute(0, 2, 3, 1)
        pairs = torch.unflatten(torch.unflatten(pairs, 2, (-1, 2)), 1, (-1, 2))  # batch, h, 2, w, 2, channels
        taps = torch.unflatten(torch.unflatten(weight, 3, (-1, 2)), 2, (-1, 2))  # out, channels, k/2, 2, k/2, 2
        convolved = F.conv2d(
            pairs.permute(0, 1, 3, 2, 4, 5).flatten(3).permute(0, 3, 1, 2),
            taps.permute(0, 2, 4, 3, 5, 1).flatten(3).permute(0, 3, 1, 2),
            padding=(margin - odd) // 2,
        )
        return convolved, bias


class ChannelNorm(nn.Module):
    """RMS norm over the channels of each pixel (Zhang & Sennrich 2019): (batch, channels, h, w), same shape.

    Statistics of one pixel alone: neither the image size nor the batch changes what it does.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-6)
        return x * (scale * self.weight.view(-1, 1, 1)).to(x.dtype)


def pixel_unshuffle(x: Tensor) -> Tensor:
    """torch's, by 2: (batch, c, 2h, 2w) → (batch, 4c, h, w). On a GPU channels stay innermost in memory."""
    return _unshuffle_innermost(x) if x.is_cuda else F.pixel_unshuffle(x, 2)


def pixel_shuffle(x: Tensor) -> Tensor:
    """torch's, by 2: (batch, 4c, h, w) → (batch, c, 2h, 2w). On a GPU channels stay innermost in memory."""
    return _shuffle_innermost(x) if x.is_cuda else F.pixel_shuffle(x, 2)


def _unshuffle_innermost(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    parts = x.permute(0, 2, 3, 1).reshape(batch, height // 2, 2, width // 2, 2, channels)
    return parts.permute(0, 1, 3, 5, 2, 4).flatten(3).permute(0, 3, 1, 2)


def _shuffle_innermost(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    parts = x.permute(0, 2, 3, 1).reshape(batch, height, width, channels // 4, 2, 2)
    return parts.permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`; the host does not wait for a GPU."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def run(block: nn.Module, *inputs: Any, checkpointing: bool) -> Any:
    """Call `block`; with `checkpointing` its inside is recomputed in the backward pass instead of kept."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)
