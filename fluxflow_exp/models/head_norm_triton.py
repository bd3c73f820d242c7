"""RMS norm of each head's channels, and rotary positions, as one Triton kernel: `head_norm`'s on a GPU.

A norm over 64 channels and a rotation of pairs 32 channels apart are two passes over memory to torch's compiler, whose
rule for reductions this short leaves most of a GPU idle. Here a program reads rows of heads once and writes them once.
Numbers are float32 inside, in every precision. The backward kernel computes everything again from the input.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 1024  # of the backward kernel, at most: each sums the gradient of the weight over the rows that it takes
ENTRIES = 2048  # of half heads that a program has at once


@triton.jit
def _rows(  # type: ignore[no-untyped-def]
    block, x_ptr, weight_ptr, rotation_ptr, count, heads, stride, tokens, half, eps,
    ROTATED: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Both halves of some heads over their root mean square, that root's inverse, weights, angles, and places."""
    row = block * ROWS + tl.arange(0, ROWS)[:, None]
    lane = tl.arange(0, LANES)[None, :]
    inside = (row < count) & (lane < half)
    token, head = row // heads, row % heads
    at = token.to(tl.int64) * stride + head * 2 * half + lane
    a = tl.load(x_ptr + at, inside, 0.0).to(tl.float32)
    b = tl.load(x_ptr + at + half, inside, 0.0).to(tl.float32)
    inverse = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * half) + eps)[:, None]
    weight_a = tl.load(weight_ptr + lane, lane < half, 0.0).to(tl.float32)
    weight_b = tl.load(weight_ptr + half + lane, lane < half, 0.0).to(tl.float32)
    if ROTATED:
        angle = (token % tokens) * half + lane
        cosine = tl.load(rotation_ptr + angle, inside, 0.0).to(tl.float32)
        sine = tl.load(rotation_ptr + tokens * half + angle, inside, 0.0).to(tl.float32)
    else:
        cosine, sine = 1.0, 0.0
    dense = row.to(tl.int64) * 2 * half + lane
    return a * inverse, b * inverse, inverse, weight_a, weight_b, cosine, sine, dense, inside


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, rotation_ptr, y_ptr, count, heads, stride, tokens, half, eps,
    ROTATED: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    a, b, _, weight_a, weight_b, cosine, sine, at, inside = _rows(
        tl.program_id(0), x_ptr, weight_ptr, rotation_ptr, count, heads, stride, tokens, half, eps, ROTATED, ROWS, LANES
    )
    a, b = a * weight_a, b * weight_b
    kind = y_ptr.dtype.element_ty
    tl.store(y_ptr + at, (a * cosine - b * sine).to(kind), inside)
    tl.store(y_ptr + at + half, (a * sine + b * cosine).to(kind), inside)


@triton.jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad_ptr, x_ptr, weight_ptr, rotation_ptr, out_ptr, sums_ptr, count, heads, stride, tokens, half, eps,
    ROTATED: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    lane = tl.arange(0, LANES)
    sum_a, sum_b = tl.zeros([LANES], tl.float32), tl.zeros([LANES], tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(count, ROWS), tl.num_programs(0)):
        a, b, inverse, weight_a, weight_b, cosine, sine, at, inside = _rows(
            block, x_ptr, weight_ptr, rotation_ptr, count, heads, stride, tokens, half, eps, ROTATED, ROWS, LANES
        )
        first = tl.load(grad_ptr + at, inside, 0.0).to(tl.float32)
        second = tl.load(grad_ptr + at + half, inside, 0.0).to(tl.float32)
        grad_a, grad_b = first * cosine + second * sine, second * cosine - first * sine
        sum_a += tl.sum(grad_a * a, 0)
        sum_b += tl.sum(grad_b * b, 0)
        grad_a, grad_b = grad_a * weight_a, grad_b * weight_b
        along = ((tl.sum(grad_a * a, 1) + tl.sum(grad_b * b, 1)) / (2 * half))[:, None]
        kind = out_ptr.dtype.element_ty
        tl.store(out_ptr + at, (inverse * (grad_a - a * along)).to(kind), inside)
        tl.store(out_ptr + at + half, (inverse * (grad_b - b * along)).to(kind), inside)
    to = tl.program_id(0) * 2 * half + lane
    tl.store(sums_ptr + to, sum_a, lane < half)
    tl.store(sums_ptr + to + half, sum_b, lane < half)


def _sizes(
    x: Tensor, weight: Tensor, eps: float, rotation: Tensor | None
) -> tuple[tuple[Any, ...], dict[str, Any], int]:
    """A kernel's last arguments, what it is compiled for, and how many blocks of rows there are."""
    half = len(weight) // 2
    heads, lanes = x.shape[1] // len(weight), triton.next_power_of_2(half)
    count, rows = x.shape[0] * heads, max(ENTRIES // lanes, 1)
    tokens = 1 if rotation is None else rotation.shape[1]
    sizes = (count, heads, x.stride(0), tokens, half, eps)
    return sizes, {"ROTATED": rotation is not None, "ROWS": rows, "LANES": lanes}, triton.cdiv(count, rows)


@torch.library.custom_op("fluxflow::head_norm", mutates_args={})
def head_norm(x: Tensor, weight: Tensor, eps: float, rotation: Tensor | None = None) -> Tensor:
    """As `head_norm.head_norm`; x (tokens, heads · channels) may be columns of a wider tensor, the result is not."""
    assert x.stride(1) == 1
    y = x.new_empty(x.shape)
    sizes, meta, blocks = _sizes(x, weight, eps, rotation)
    _forward_kernel[(blocks,)](x, weight, weight if rotation is None else rotation, y, *sizes, **meta)
    return y


@torch.library.custom_op("fluxflow::head_norm_backward", mutates_args={})
def head_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, eps: float, rotation: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Gradients of x, and of `weight` by parts (parts, channels) in float32; `grad` is contiguous."""
    assert x.stride(1) == 1
    sizes, meta, blocks = _sizes(x, weight, eps, rotation)
    programs = min(blocks, PROGRAMS)
    out, parts = x.new_empty(x.shape), x.new_empty((programs, len(weight)), dtype=torch.float32)
    given = (grad, x, weight, weight if rotation is None else rotation)
    _backward_kernel[(programs,)](*given, out, parts, *sizes, **meta)
    return out, parts


@head_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float, rotation: Tensor | None = None) -> Tensor:
    return x.new_empty(x.shape)


@head_norm_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, eps: float, rotation: Tensor | None = None) -> tuple[Tensor, Tensor]:
    programs = min(_sizes(x, weight, eps, rotation)[2], PROGRAMS)
    return x.new_empty(x.shape), x.new_empty((programs, len(weight)), dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, float, Tensor | None], output: Tensor) -> None:
    x, weight, ctx.eps, rotation = inputs
    ctx.save_for_backward(x, weight, rotation)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
    x, weight, rotation = ctx.saved_tensors
    found, parts = head_norm_backward(grad.contiguous(), x, weight, ctx.eps, rotation)
    return found, parts.sum(0).to(weight.dtype), None, None


head_norm.register_autograd(_gradients, setup_context=_keep)
