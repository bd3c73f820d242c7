"""Norm and rotation of heads by their formulas; on a GPU, and on CPUs through Triton's interpreter, the kernel."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fluxflow_exp.models.flow_block import rotary
from fluxflow_exp.models.head_norm import EPSILON, head_norm, rotate
from tests.helpers.interpreted import by_the_parent, on_each_device, passes_interpreted, with_triton

GRID = (3, 5)
PRECISIONS = [torch.float32, torch.float16, torch.bfloat16]
HEADS = [(2, 64), (3, 20), (1, 4), (5, 128)]  # how many, and their channels


@pytest.mark.slow
@by_the_parent
@with_triton
def test_the_kernels_pass_these_tests_through_the_interpreter() -> None:
    passes_interpreted(__file__)


@by_the_parent
def test_a_head_has_a_root_mean_square_of_one_before_its_weight_and_keeps_it_when_it_is_rotated() -> None:
    x = torch.randn(2, 15, 24, dtype=torch.float64)
    plain = head_norm(x, torch.ones(8, dtype=torch.float64))
    assert plain.shape == (2, 3, 15, 8)
    torch.testing.assert_close(plain.square().mean(-1), torch.ones(2, 3, 15, dtype=torch.float64), rtol=1e-4, atol=0)
    turned = head_norm(x, torch.ones(8, dtype=torch.float64), angles(8).double())
    pairs = torch.complex(*turned.chunk(2, -1)) / torch.complex(*plain.chunk(2, -1))
    wanted = torch.complex(*angles(8).double())
    torch.testing.assert_close(pairs, wanted.expand_as(pairs))


@on_each_device
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_values_and_gradients_are_those_of_float64(
    device: str, precision: torch.dtype, heads: tuple[int, int], rotated: bool
) -> None:
    x, weight, grad = given(*heads, device=device, precision=precision)
    rotation = angles(heads[1]).to(device) if rotated else None
    found, slopes = both_ways(kernel, x, weight, rotation, grad)
    wanted, wanted_slopes = both_ways(formula, x.cpu().double(), weight.cpu().double(), rotation, grad.cpu().double())
    assert found.dtype == slopes[0].dtype == precision
    assert slopes[1].dtype == torch.float32
    error = 2 * torch.finfo(precision).eps
    assert_close(found, wanted, error)
    for one, other in zip(slopes, wanted_slopes, strict=True):
        assert_close(one, other, 8 * error)


@on_each_device
def test_columns_of_a_wider_tensor_are_read_where_they_are(device: str) -> None:
    x, weight, grad = given(2, 8, device=device, precision=torch.float32)
    wide = torch.cat([x, torch.full_like(x, torch.nan)], -1)
    found, slopes = both_ways(lambda v, *rest: kernel(v[..., :16], *rest), wide, weight, None, grad)
    wanted, wanted_slopes = both_ways(kernel, x, weight, None, grad)
    assert torch.equal(found, wanted)
    assert torch.equal(slopes[0][..., :16], wanted_slopes[0])
    assert not slopes[0][..., 16:].any()
    assert torch.equal(slopes[1], wanted_slopes[1])


@on_each_device
def test_more_rows_than_programs_take_at_once_are_all_summed(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fluxflow_exp.models import head_norm_triton

    x, weight, grad = given(2, 8, device=device, precision=torch.float32)
    _, wanted = both_ways(kernel, x, weight, None, grad)
    monkeypatch.setattr(head_norm_triton, "ENTRIES", 16)
    monkeypatch.setattr(head_norm_triton, "PROGRAMS", 3)
    _, found = both_ways(kernel, x, weight, None, grad)
    torch.testing.assert_close(found, wanted)


@on_each_device
def test_zeros_stay_zeros(device: str) -> None:
    x, weight, grad = given(2, 8, device=device, precision=torch.float32)
    found, slopes = both_ways(kernel, torch.zeros_like(x), weight, None, grad)
    assert not found.any()
    assert slopes[0].isfinite().all()


@on_each_device
def test_the_operators_are_registered_as_torch_wants_them(device: str) -> None:
    from fluxflow_exp.models import head_norm_triton

    x, weight, _ = given(2, 8, device=device, precision=torch.float32)
    rows, rotation = x.flatten(0, 1), angles(8).to(device)
    leaf = weight.clone().requires_grad_()
    torch.library.opcheck(head_norm_triton.head_norm, (rows.clone().requires_grad_(), leaf, EPSILON, rotation))
    torch.library.opcheck(
        head_norm_triton.head_norm_backward, (torch.randn_like(rows), rows, weight, EPSILON, rotation)
    )


@pytest.mark.gpu
@by_the_parent
@pytest.mark.parametrize("compiled", [False, True])
def test_attention_computes_on_a_gpu_what_it_does_on_a_cpu(compiled: bool) -> None:
    from fluxflow_exp.models.flow_block import Attention

    torch.manual_seed(0)
    layer, x = Attention(32, 2, 32), torch.randn(2, 15, 32)
    wanted = layer(x, x, rotation=angles(16))[0]
    layer = layer.cuda()
    called: Any = torch.compile(layer, fullgraph=True) if compiled else layer
    found = called(x.cuda(), x.cuda(), rotation=angles(16).cuda())[0]
    torch.testing.assert_close(found.cpu(), wanted, rtol=2e-3, atol=2e-3)
    with torch.autocast("cuda", torch.bfloat16):
        half = called(x.cuda(), x.cuda(), rotation=angles(16).cuda())[0]
    assert half.dtype == torch.bfloat16
    half.float().sum().backward()
    assert layer.query_norm.weight.grad.abs().max() > 0


@pytest.mark.gpu
@by_the_parent
def test_a_gpu_keeps_float64_and_takes_a_batch_of_nothing() -> None:
    x, weight, _ = given(2, 8, device="cuda", precision=torch.float64)
    found, wanted = head_norm(x, weight.double()), formula(x, weight.double(), None)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    none = x[:0].float().requires_grad_()
    made = head_norm(none, weight)
    assert made.shape == (0, 2, 15, 8)
    made.sum().backward()
    assert none.grad is not None
    assert none.grad.shape == (0, 15, 16)


def kernel(x: Tensor, weight: Tensor, rotation: Tensor | None) -> Tensor:
    """The fused path, whatever the device."""
    from fluxflow_exp.models import head_norm_triton

    made: Tensor = head_norm_triton.head_norm(x.flatten(0, 1), weight, EPSILON, rotation)
    return made.view(*x.shape[:2], -1, len(weight)).transpose(1, 2)


def formula(x: Tensor, weight: Tensor, rotation: Tensor | None) -> Tensor:
    heads = x.unflatten(-1, (-1, len(weight))).transpose(1, 2)
    normed = weight * heads / (heads.square().mean(-1, keepdim=True) + EPSILON).sqrt()
    return normed if rotation is None else rotate(normed, rotation.cpu())


def angles(channels: int) -> Tensor:
    return rotary(*GRID, channels, device=torch.device("cpu"))


def given(heads: int, channels: int, *, device: str, precision: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight, and a gradient of the result."""
    source = torch.Generator().manual_seed(heads * channels)
    x = torch.randn(2, 15, heads * channels, generator=source)
    weight = 1 + 0.3 * torch.randn(channels, generator=source)
    grad = torch.randn(2, heads, 15, channels, generator=source)
    return x.to(device, precision), weight.to(device), grad.to(device, precision)


def both_ways(
    function: Any, x: Tensor, weight: Tensor, rotation: Tensor | None, grad: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Values, and the gradients of x and weight."""
    x, weight = x.detach().clone().requires_grad_(), weight.detach().clone().requires_grad_()
    found = function(x, weight, rotation)
    return found.detach(), torch.autograd.grad(found, (x, weight), grad)


def assert_close(found: Tensor, wanted: Tensor, error: float) -> None:
    size = wanted.abs().max()
    assert (found.cpu().double() - wanted).abs().max() <= error * size
