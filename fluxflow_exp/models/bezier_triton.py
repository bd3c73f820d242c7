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

# (threads, warps) of a program, and whether the backward kernel writes whole lines: what an H200 does fastest.
FORWARD = {"BLOCK": 32, "num_warps": 1}
BACKWARD = {"BLOCK": 128, "num_warps": 4, "WIDE": True}
BACKWARD_WITH_BIAS = {"BLOCK": 32, "num_warps": 1, "WIDE": False}
SUMMED = 1024  # blocks of rows that gradients of biases are summed in


@triton.jit
def _sigmoid(x):  # type: ignore[no-untyped-def]
    """1 / (1 + e⁻ˣ) as a squared reciprocal root, which is one instruction where a division is many."""
    root = tl.rsqrt(1 + tl.exp(-x))
    return root * root


@triton.jit
def _pre(x, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    if KIND == "sigmoid":
        return _sigmoid(x)
    elif KIND == "tanh":
        return 2 * _sigmoid(2 * x) - 1
    elif KIND == "silu":
        return x * _sigmoid(x)
    else:
        return x


@triton.jit
def _pre_slope(x, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """The value, and its derivative."""
    if KIND == "sigmoid":
        y = _sigmoid(x)
        return y, y - y * y
    elif KIND == "tanh":
        y = 2 * _sigmoid(2 * x) - 1
        return y, 1 - y * y
    elif KIND == "silu":
        s = _sigmoid(x)
        y = x * s
        return y, s + y - y * s
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
def _load(  # type: ignore[no-untyped-def]
    x_ptr, bias_ptr, thread, count, CHANNELS: tl.constexpr, WORD: tl.constexpr, EVEN: tl.constexpr
):
    """The quintuples of each thread as float32 columns, with the bias of their channels added if CHANNELS > 0."""
    lane = tl.arange(0, WORD)[None, :]
    x = ()
    for word in tl.static_range(5):
        at = (thread.to(tl.int64) * 5 + word) * WORD + lane
        inside = thread * WORD < count if EVEN else at < 5 * count
        values = tl.load(x_ptr + at, inside, 0.0).to(tl.float32)
        if CHANNELS > 0:
            # EVEN: a thread's quintuples are of neighbouring channels.
            place = (thread % (CHANNELS // WORD) * 5 + word) * WORD + lane if EVEN else at % (5 * CHANNELS)
            values += tl.load(bias_ptr + place).to(tl.float32)
        x += _apart(values, WORD)
    return x


@triton.jit
def _wide(w0, w1, w2, w3, w4):  # type: ignore[no-untyped-def]
    """Five (threads, WORD) → (threads, 8, WORD), three of them of no use: stored as one, whole lines are written."""
    even = tl.join(tl.join(w0, w4), tl.join(w2, w2))
    odd = tl.join(tl.join(w1, w1), tl.join(w3, w3))
    words = tl.reshape(tl.join(even, odd), [w0.shape[0], w0.shape[1], 8])
    return tl.permute(words, (0, 2, 1))


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    bias_ptr,
    y_ptr,
    count,
    T_PRE: tl.constexpr,
    P_PRE: tl.constexpr,
    CHANNELS: tl.constexpr,
    WORD: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    thread = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None]
    x = _load(x_ptr, bias_ptr, thread, count, CHANNELS, WORD, EVEN)
    y = ()
    for i in tl.static_range(WORD):
        y += (_curve(x[5 * i], x[5 * i + 1], x[5 * i + 2], x[5 * i + 3], x[5 * i + 4], T_PRE, P_PRE),)
    at = thread.to(tl.int64) * WORD + tl.arange(0, WORD)[None, :]
    inside = thread * WORD < count if EVEN else at < count
    tl.store(y_ptr + at, _together(y, 0, WORD).to(y_ptr.dtype.element_ty), inside)


@triton.jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad_ptr,
    x_ptr,
    bias_ptr,
    out_ptr,
    count,
    T_PRE: tl.constexpr,
    P_PRE: tl.constexpr,
    CHANNELS: tl.constexpr,
    WORD: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
):
    thread = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None]
    at = thread.to(tl.int64) * WORD + tl.arange(0, WORD)[None, :]
    inside = thread * WORD < count if EVEN else at < count
    grad = _apart(tl.load(grad_ptr + at, inside, 0.0).to(tl.float32), WORD)
    x = _load(x_ptr, bias_ptr, thread, count, CHANNELS, WORD, EVEN)
    out = ()
    for i in tl.static_range(WORD):
        out += _slopes(grad[i], x[5 * i], x[5 * i + 1], x[5 * i + 2], x[5 * i + 3], x[5 * i + 4], T_PRE, P_PRE)
    kind = out_ptr.dtype.element_ty
    if WIDE:
        words = _wide(
            _together(out, 0, WORD).to(kind),
            _together(out, WORD, WORD).to(kind),
            _together(out, 2 * WORD, WORD).to(kind),
            _together(out, 3 * WORD, WORD).to(kind),
            _together(out, 4 * WORD, WORD).to(kind),
        )
        word = tl.arange(0, 8)[None, :, None]
        place = (thread.to(tl.int64)[:, :, None] * 5 + word) * WORD + tl.arange(0, WORD)[None, None, :]
        inside = thread[:, :, None] * WORD < count if EVEN else place < 5 * count
        tl.store(out_ptr + place, words, inside & (word < 5))
    else:
        for word in tl.static_range(5):
            at = (thread.to(tl.int64) * 5 + word) * WORD + tl.arange(0, WORD)[None, :]
            inside = thread * WORD < count if EVEN else at < 5 * count
            tl.store(out_ptr + at, _together(out, word * WORD, WORD).to(kind), inside)


def _launch(
    kernel: Any, *tensors: Tensor, count: int, channels: int, t_pre: str, p_pre: str, how: dict[str, Any]
) -> None:
    """`channels` of the bias; 0: there is none."""
    word = 16 // tensors[0].element_size()
    threads = triton.cdiv(count, word)
    even = count % word == 0 and channels % word == 0
    kernel[(triton.cdiv(threads, how["BLOCK"]),)](
        *tensors, count, T_PRE=t_pre, P_PRE=p_pre, CHANNELS=channels, WORD=word, EVEN=even, **how
    )


@torch.library.custom_op("fluxflow::bezier", mutates_args={})
def bezier(x: Tensor, t_pre: str, p_pre: str, bias: Tensor | None = None) -> Tensor:
    """Channels last in shape and memory: contiguous (…, 5c) + bias (5c,) → (…, c), in x's precision."""
    y = x.new_empty((*x.shape[:-1], x.shape[-1] // 5))
    channels, added = (0, x) if bias is None else (y.shape[-1], bias)
    _launch(_forward_kernel, x, added, y, count=y.numel(), channels=channels, t_pre=t_pre, p_pre=p_pre, how=FORWARD)
    return y


@torch.library.custom_op("fluxflow::bezier_backward", mutates_args={})
def bezier_backward(grad: Tensor, x: Tensor, t_pre: str, p_pre: str, bias: Tensor | None = None) -> Tensor:
    """The gradient of x for the gradient of `bezier(x, bias)`, both contiguous."""
    out = torch.empty_like(x)
    channels, added = (0, x) if bias is None else (grad.shape[-1], bias)
    how = BACKWARD if bias is None else BACKWARD_WITH_BIAS
    _launch(
        _backward_kernel, grad, x, added, out, count=grad.numel(), channels=channels, t_pre=t_pre, p_pre=p_pre, how=how
    )
    return out


@bezier.register_fake
def _(x: Tensor, t_pre: str, p_pre: str, bias: Tensor | None = None) -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 5))


@bezier_backward.register_fake
def _(grad: Tensor, x: Tensor, t_pre: str, p_pre: str, bias: Tensor | None = None) -> Tensor:
    return torch.empty_like(x)


def _column_sums(rows: Tensor) -> Tensor:
    """(n, c) → (c,) in float32. Torch reads many rows a quarter faster as blocks of them."""
    if rows.shape[0] % SUMMED:
        return rows.sum(0, dtype=torch.float32)
    return torch.unflatten(rows, 0, (SUMMED, -1)).sum(1, dtype=torch.float32).sum(0)


def _keep(ctx: Any, inputs: tuple[Tensor, str, str, Tensor | None], output: Tensor) -> None:
    x, ctx.t_pre, ctx.p_pre, bias = inputs
    ctx.save_for_backward(x, bias)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, Tensor | None]:
    x, bias = ctx.saved_tensors
    found = bezier_backward(grad.contiguous(), x, ctx.t_pre, ctx.p_pre, bias)
    wanted = bias is not None and ctx.needs_input_grad[3]
    sums = _column_sums(found.flatten(0, -2)).to(bias.dtype) if wanted else None
    return found, None, None, sums


bezier.register_autograd(_gradients, setup_context=_keep)
