"""The Bezier activation as fused Triton kernels, for tensors whose channels are neighbours in memory.

There a tensor is one run of (t, p₀, p₁, p₂, p₃) quintuples, whatever its shape. A thread takes as many of them as
make five 16-byte words (8 in half precision, 4 in float32), so that it reads and writes words, and picks the
quintuples apart in registers. The backward kernel computes everything again from the input: nothing else is kept.
Numbers are float32 inside, in every precision.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128  # threads a program


@triton.jit
def _pre(x, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    if KIND == "sigmoid":
        return tl.sigmoid(x)
    elif KIND == "tanh":
        return 2 * tl.sigmoid(2 * x) - 1
    elif KIND == "silu":
        return x * tl.sigmoid(x)
    else:
        return x


@triton.jit
def _pre_slope(x, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """The value, and its derivative."""
    if KIND == "sigmoid":
        y = tl.sigmoid(x)
        return y, y * (1 - y)
    elif KIND == "tanh":
        y = 2 * tl.sigmoid(2 * x) - 1
        return y, 1 - y * y
    elif KIND == "silu":
        s = tl.sigmoid(x)
        return x * s, s * (1 + x * (1 - s))
    else:
        return x, tl.full(x.shape, 1.0, tl.float32)


@triton.jit
def _curve(t, p0, p1, p2, p3, T_PRE: tl.constexpr, P_PRE: tl.constexpr):  # type: ignore[no-untyped-def]
    t = _pre(t, T_PRE)
    p0, p1, p2, p3 = _pre(p0, P_PRE), _pre(p1, P_PRE), _pre(p2, P_PRE), _pre(p3, P_PRE)
    a, b, c = p0 + t * (p1 - p0), p1 + t * (p2 - p1), p2 + t * (p3 - p2)
    a, b = a + t * (b - a), b + t * (c - b)
    return a + t * (b - a)


@triton.jit
def _slopes(grad, t, p0, p1, p2, p3, T_PRE: tl.constexpr, P_PRE: tl.constexpr):  # type: ignore[no-untyped-def]
    t, dt = _pre_slope(t, T_PRE)
    p0, d0 = _pre_slope(p0, P_PRE)
    p1, d1 = _pre_slope(p1, P_PRE)
    p2, d2 = _pre_slope(p2, P_PRE)
    p3, d3 = _pre_slope(p3, P_PRE)
    u = 1 - t
    along = 3 * (u * u * (p1 - p0) + 2 * u * t * (p2 - p1) + t * t * (p3 - p2))
    return (
        grad * along * dt,
        grad * u * u * u * d0,
        grad * 3 * u * u * t * d1,
        grad * 3 * u * t * t * d2,
        grad * t * t * t * d3,
    )


@triton.jit
def _apart(x, WORD: tl.constexpr):  # type: ignore[no-untyped-def]
    """(threads, WORD) → its columns."""
    even, odd = tl.split(tl.reshape(x, [x.shape[0], WORD // 2, 2]))
    e0, e1 = tl.split(tl.reshape(even, [x.shape[0], WORD // 4, 2]))
    o0, o1 = tl.split(tl.reshape(odd, [x.shape[0], WORD // 4, 2]))
    if WORD == 4:
        return (
            tl.reshape(e0, [x.shape[0]]),
            tl.reshape(o0, [x.shape[0]]),
            tl.reshape(e1, [x.shape[0]]),
            tl.reshape(o1, [x.shape[0]]),
        )
    else:
        x0, x4 = tl.split(e0)
        x2, x6 = tl.split(e1)
        x1, x5 = tl.split(o0)
        x3, x7 = tl.split(o1)
        return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def _together(x, at: tl.constexpr, WORD: tl.constexpr):  # type: ignore[no-untyped-def]
    """The columns x[at], …, x[at + WORD - 1] → (threads, WORD)."""
    if WORD == 4:
        even, odd = tl.join(x[at], x[at + 2]), tl.join(x[at + 1], x[at + 3])
    else:
        e0, e1 = tl.join(x[at], x[at + 4]), tl.join(x[at + 2], x[at + 6])
        o0, o1 = tl.join(x[at + 1], x[at + 5]), tl.join(x[at + 3], x[at + 7])
        even = tl.reshape(tl.join(e0, e1), [e0.shape[0], 4])
        odd = tl.reshape(tl.join(o0, o1), [e0.shape[0], 4])
    return tl.reshape(tl.join(even, odd), [even.shape[0], WORD])


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    y_ptr,
    count,
    T_PRE: tl.constexpr,
    P_PRE: tl.constexpr,
    WORD: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    thread = (tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK))[:, None]
    lane = tl.arange(0, WORD)[None, :]
    x = ()
    for word in tl.static_range(5):
        at = (thread * 5 + word) * WORD + lane
        inside = thread * WORD < count if EVEN else at < 5 * count
        x += _apart(tl.load(x_ptr + at, inside, 0.0).to(tl.float32), WORD)
    y = ()
    for i in tl.static_range(WORD):
        y += (_curve(x[5 * i], x[5 * i + 1], x[5 * i + 2], x[5 * i + 3], x[5 * i + 4], T_PRE, P_PRE),)
    at = thread * WORD + lane
    inside = thread * WORD < count if EVEN else at < count
    tl.store(y_ptr + at, _together(y, 0, WORD).to(y_ptr.dtype.element_ty), inside)


@triton.jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad_ptr,
    x_ptr,
    out_ptr,
    count,
    T_PRE: tl.constexpr,
    P_PRE: tl.constexpr,
    WORD: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    thread = (tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK))[:, None]
    lane = tl.arange(0, WORD)[None, :]
    at = thread * WORD + lane
    inside = thread * WORD < count if EVEN else at < count
    grad = _apart(tl.load(grad_ptr + at, inside, 0.0).to(tl.float32), WORD)
    x = ()
    for word in tl.static_range(5):
        at = (thread * 5 + word) * WORD + lane
        inside = thread * WORD < count if EVEN else at < 5 * count
        x += _apart(tl.load(x_ptr + at, inside, 0.0).to(tl.float32), WORD)
    out = ()
    for i in tl.static_range(WORD):
        out += _slopes(grad[i], x[5 * i], x[5 * i + 1], x[5 * i + 2], x[5 * i + 3], x[5 * i + 4], T_PRE, P_PRE)
    for word in tl.static_range(5):
        at = (thread * 5 + word) * WORD + lane
        inside = thread * WORD < count if EVEN else at < 5 * count
        tl.store(out_ptr + at, _together(out, word * WORD, WORD).to(out_ptr.dtype.element_ty), inside)


def _launch(kernel: Any, *tensors: Tensor, count: int, t_pre: str, p_pre: str) -> None:
    word = 16 // tensors[0].element_size()
    threads = triton.cdiv(count, word)
    kernel[(triton.cdiv(threads, BLOCK),)](
        *tensors, count, T_PRE=t_pre, P_PRE=p_pre, WORD=word, EVEN=count % word == 0, BLOCK=BLOCK
    )


@torch.library.custom_op("fluxflow::bezier", mutates_args={})
def bezier(x: Tensor, t_pre: str, p_pre: str) -> Tensor:
    """Channels last in shape and memory: contiguous (…, 5c) → (…, c), in x's precision."""
    y = x.new_empty((*x.shape[:-1], x.shape[-1] // 5))
    _launch(_forward_kernel, x, y, count=y.numel(), t_pre=t_pre, p_pre=p_pre)
    return y


@torch.library.custom_op("fluxflow::bezier_backward", mutates_args={})
def bezier_backward(grad: Tensor, x: Tensor, t_pre: str, p_pre: str) -> Tensor:
    """The gradient of x for the gradient of `bezier(x)`, both contiguous."""
    out = torch.empty_like(x)
    _launch(_backward_kernel, grad, x, out, count=grad.numel(), t_pre=t_pre, p_pre=p_pre)
    return out


@bezier.register_fake
def _(x: Tensor, t_pre: str, p_pre: str) -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 5))


@bezier_backward.register_fake
def _(grad: Tensor, x: Tensor, t_pre: str, p_pre: str) -> Tensor:
    return torch.empty_like(x)


def _keep(ctx: Any, inputs: tuple[Tensor, str, str], output: Tensor) -> None:
    x, ctx.t_pre, ctx.p_pre = inputs
    ctx.save_for_backward(x)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (x,) = ctx.saved_tensors
    return bezier_backward(grad.contiguous(), x, ctx.t_pre, ctx.p_pre), None, None


bezier.register_autograd(_gradients, setup_context=_keep)
