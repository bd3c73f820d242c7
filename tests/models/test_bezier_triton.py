"""The fused Bezier kernels against the eager curve in float64: on a GPU, and on CPUs through Triton's interpreter."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxflow_exp.models.bezier import BezierActivation
from tests.helpers.interpreted import by_the_parent, on_each_device, passes_interpreted, with_triton

PRECISIONS = [torch.float32, torch.float16, torch.bfloat16]
PRE = ["sigmoid", "tanh", "silu", "none"]
SHAPES = [(5,), (3, 35), (2, 3, 40), (1, 513, 5), (2, 2, 128, 10), (1025, 5)]  # channels last, in fives


@pytest.mark.slow
@by_the_parent
@with_triton
def test_the_kernels_pass_these_tests_through_the_interpreter() -> None:
    passes_interpreted(__file__)


def test_a_cpu_tensor_does_not_reach_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: Any) -> None:
        raise AssertionError("the kernels are for GPUs")

    monkeypatch.setattr(BezierActivation, "_fused", reached)
    assert BezierActivation()(torch.zeros(1, 5, 2, 2)).shape == (1, 1, 2, 2)


@on_each_device
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize(("t_pre", "p_pre"), list(product(PRE, PRE)))
def test_values_and_gradients_are_those_of_float64(device: str, precision: torch.dtype, t_pre: str, p_pre: str) -> None:
    assert_agreement(random((7, 185), precision, device), t_pre, p_pre)


@on_each_device
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape(device: str, precision: torch.dtype, shape: tuple[int, ...]) -> None:
    """One element, whole words, the first and the last thread of a program alone, ends within a word."""
    assert_agreement(random(shape, precision, device), "sigmoid", "silu")


@on_each_device
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # the interpreter's; 1 / (1 + inf) is right
def test_large_numbers_stay_finite(device: str, precision: torch.dtype) -> None:
    # Each channel of a quintuple takes each of the seven.
    x = torch.tensor([-3e4, -200.0, -20.0, 0.0, 20.0, 200.0, 3e4], dtype=precision, device=device).repeat(25)
    found, slopes, _ = both_ways(ops().bezier, x, "sigmoid", "tanh")
    assert found.isfinite().all()
    assert slopes.isfinite().all()
    assert ops().bezier(x, "sigmoid", "silu").isfinite().all()


@on_each_device
def test_an_activation_over_channels_of_images(device: str) -> None:
    """Channels innermost in memory or not: the values are the same, and the result has them innermost."""
    activation = BezierActivation()
    plain = random((2, 15, 3, 5), torch.float32, device)
    wanted, wanted_slopes, grad = both_ways(reference, plain.movedim(1, -1), "sigmoid", "silu")
    for layout in (torch.channels_last, torch.contiguous_format):
        x = plain.contiguous(memory_format=layout)
        found, slopes, _ = both_ways(lambda x, *_: activation._fused(x, 1), x, "", "", grad.movedim(-1, 1))
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found.movedim(1, -1), wanted, check_dtype=False)
        torch.testing.assert_close(slopes.movedim(1, -1), wanted_slopes, check_dtype=False)


@on_each_device
@pytest.mark.parametrize("channels", [8, 7])  # whole words, and not
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_a_bias_is_added_first(device: str, precision: torch.dtype, channels: int) -> None:
    x = random((3, 5, 5 * channels), precision, device)
    bias = random((5 * channels,), torch.float32, device).requires_grad_()
    found, slopes, grad = both_ways(lambda v, t, p: ops().bezier(v, t, p, bias), x, "sigmoid", "silu")
    whole = (x.double() + bias.detach().double()).cpu().requires_grad_()
    wanted = reference(whole, "sigmoid", "silu")
    (wanted_slopes,) = torch.autograd.grad(wanted, whole, grad.double().cpu())
    size = spread(whole.detach(), "sigmoid", "silu") * (1 + whole.detach().abs().amax())
    assert_within(found.cpu(), wanted.detach(), size)
    scaled = (grad.abs().double().cpu() * size).repeat_interleave(5, -1)
    assert_within(slopes.cpu(), wanted_slopes, scaled)
    leaf = x.detach().requires_grad_()
    (sums,) = torch.autograd.grad(ops().bezier(leaf, "sigmoid", "silu", bias), bias, grad)
    assert sums.dtype == bias.dtype
    expected = wanted_slopes.flatten(0, -2).sum(0)
    error = 15 * torch.finfo(precision).eps * wanted_slopes.abs().flatten(0, -2).sum(0) + 1e-5
    assert ((sums.cpu().double() - expected).abs() <= error).all()


@on_each_device
def test_a_gradient_that_is_not_contiguous(device: str) -> None:
    x = random((6, 35), torch.float32, device)
    grad = torch.randn(7, 6, device=device).t()
    _, slopes, _ = both_ways(ops().bezier, x, "sigmoid", "silu", grad)
    _, wanted, _ = both_ways(reference, x, "sigmoid", "silu", grad)
    torch.testing.assert_close(slopes, wanted, check_dtype=False)


@on_each_device
def test_the_operators_are_registered_as_torch_wants_them(device: str) -> None:
    x = random((3, 35), torch.float32, device)
    torch.library.opcheck(ops().bezier, (x.clone().requires_grad_(), "sigmoid", "silu"))
    torch.library.opcheck(ops().bezier_backward, (torch.randn(3, 7, device=device), x, "sigmoid", "silu"))


@on_each_device
def test_a_compiled_graph_keeps_the_operators(device: str) -> None:
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    seen: list[str] = []

    def record(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph)

    compiled = torch.compile(
        lambda x, *_: BezierActivation()._fused(2 * x, 1),
        fullgraph=True,
        backend=aot_autograd(fw_compiler=record, bw_compiler=record),
    )
    x = random((2, 15, 4), torch.float32, device)
    found, slopes, grad = both_ways(compiled, x, "", "")
    wanted, wanted_slopes, _ = both_ways(lambda x, *_: BezierActivation()._fused(2 * x, 1), x, "", "", grad)
    assert {"fluxflow.bezier.default", "fluxflow.bezier_backward.default"} <= set(seen)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(slopes, wanted_slopes)


@pytest.mark.gpu
@by_the_parent
@pytest.mark.parametrize("compiled", [False, True])
def test_under_autocast_the_precision_of_the_input_stays(compiled: bool) -> None:
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 20, 3), BezierActivation()).cuda()
    wanted = layer(torch.ones(2, 3, 8, 8, device="cuda"))
    called: Any = torch.compile(layer, fullgraph=True) if compiled else layer
    with torch.autocast("cuda", torch.bfloat16):
        found = called(torch.ones(2, 3, 8, 8, device="cuda"))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=0.05, atol=0.02)
    found.float().sum().backward()
    assert layer[0].weight.grad.abs().max() > 0


def ops() -> Any:
    """Imported late: only a process that has a GPU, or interprets, may."""
    from fluxflow_exp.models import bezier_triton

    return bezier_triton


def random(shape: tuple[int, ...], precision: torch.dtype, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (2 * torch.randn(shape, generator=generator)).to(device, precision)


def reference(x: Tensor, t_pre: Any, p_pre: Any) -> Tensor:
    """The eager activation, on the CPU in float64."""
    found: Tensor = BezierActivation(dim=-1, t_pre=t_pre, p_pre=p_pre)(x.cpu().double())
    return found.to(x.device)


def both_ways(
    function: Callable[..., Tensor], x: Tensor, t_pre: str, p_pre: str, grad: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, the gradient of x, and the (random) gradient of the values that it is for."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    found = function(x, t_pre, p_pre)
    if grad is None:
        grad = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(found.device, x.dtype)
    (slopes,) = torch.autograd.grad(found, x, grad.to(found.dtype))
    return found.detach(), slopes, grad


def assert_agreement(x: Tensor, t_pre: str, p_pre: str) -> None:
    found, slopes, grad = both_ways(ops().bezier, x, t_pre, p_pre)
    wanted, wanted_slopes, _ = both_ways(reference, x, t_pre, p_pre, grad)
    assert found.shape == wanted.shape
    assert found.dtype == slopes.dtype == x.dtype
    size = spread(x, t_pre, p_pre)
    assert_within(found, wanted, size)
    assert_within(slopes, wanted_slopes, (grad.abs().double() * size).repeat_interleave(5, -1))


def spread(x: Tensor, t_pre: str, p_pre: str) -> Tensor:
    """What float32 may round in a curve: (|t| + |1 - t| + 1)³ (1 + largest control point), (…, c)."""
    pre = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "silu": torch.nn.functional.silu, "none": lambda v: v}
    fives = x.double().unflatten(-1, (-1, 5))
    t, points = pre[t_pre](fives[..., 0]), pre[p_pre](fives[..., 1:])
    return (t.abs() + (1 - t).abs() + 1) ** 3 * (1 + points.abs().amax(-1))


def assert_within(found: Tensor, wanted: Tensor, size: Tensor) -> None:
    """Float32 arithmetic (8 roundings of numbers of `size`), and one rounding to the precision of `found`."""
    limits = torch.finfo(found.dtype)
    allowed = (
        8 * torch.finfo(torch.float32).eps * size + limits.eps * wanted.abs() + limits.smallest_normal * limits.eps
    )
    error = (found.double() - wanted).abs()
    assert (error <= allowed).all(), f"{(error / allowed).max():.2f} times the bound"


@with_triton
@pytest.mark.parametrize("rows", [7, 1024, 3 * 1024, 1025])
def test_sums_of_columns_do_not_depend_on_how_rows_are_read(rows: int) -> None:
    from fluxflow_exp.models.bezier_triton import _column_sums

    values = torch.randn(rows, 6, generator=torch.Generator().manual_seed(rows)).to(torch.bfloat16)
    found = _column_sums(values)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), values.double().sum(0), rtol=1e-5, atol=1e-3)
