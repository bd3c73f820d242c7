"""The transposed convolution with its own gradients, against torch's in float64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow_exp.models import transposed_conv
from fluxflow_exp.models.transposed_conv import UpConv2d, _UpConv, gradients

# batch, channels in and out, height, width
SIZES = [(1, 1, 1, 1, 1), (1, 3, 2, 4, 4), (2, 2, 5, 3, 7), (3, 4, 3, 5, 2), (2, 5, 10, 9, 8)]


def drawn(size: tuple[int, ...], kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weight and bias, float64, all with gradients."""
    batch, channels_in, channels_out, height, width = size
    torch.manual_seed(0)
    shapes = (batch, channels_in, height, width), (channels_in, channels_out, kernel, kernel), (channels_out,)
    x, weight, bias = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    return x, weight, bias


@pytest.mark.parametrize("kernel", [4, 8, 12, 16])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_gradients_are_those_of_autograd(size: tuple[int, ...], kernel: int) -> None:
    x, weight, bias = drawn(size, kernel)
    found = F.conv_transpose2d(x, weight, bias, stride=2, padding=kernel // 2 - 1)
    grad = torch.randn_like(found)
    wanted = torch.autograd.grad(found, (x, weight), grad)
    torch.testing.assert_close(gradients(x.detach(), weight.detach(), grad), wanted)


def test_the_gradients_take_channels_last_and_half_precision() -> None:
    x, weight, bias = drawn((2, 8, 4, 6, 5), 8)
    found = F.conv_transpose2d(x, weight, bias, stride=2, padding=3)
    grad = torch.randn_like(found)
    wanted = torch.autograd.grad(found, (x, weight), grad)
    halves = (v.detach().to(torch.bfloat16, memory_format=torch.channels_last) for v in (x, weight, grad))
    for made, exact in zip(gradients(*halves), wanted, strict=True):
        assert made is not None
        assert made.dtype == torch.bfloat16
        torch.testing.assert_close(made.double(), exact, rtol=0.02, atol=0.02 * exact.abs().max().item())


@pytest.mark.parametrize("kernel", [4, 8])
def test_all_gradients_are_those_of_finite_differences(kernel: int) -> None:
    x, weight, _ = drawn((2, 1, 2, 3, 2), kernel)
    assert torch.autograd.gradcheck(_UpConv.apply, (x, weight))


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (True, True)])
def test_only_what_is_asked_for_is_computed(wanted: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    costly: list[str] = []
    for name in ("_input_gradient", "_weight_gradient"):
        plain = getattr(transposed_conv, name)
        monkeypatch.setattr(transposed_conv, name, lambda *v, n=name, f=plain: costly.append(n) or f(*v))
    given = [v.detach().requires_grad_(w) for v, w in zip(drawn((1, 2, 3, 4, 4), 4), wanted, strict=False)]
    made: Any = _UpConv.apply(*given)
    made.sum().backward()
    assert [v.grad is not None for v in given] == list(wanted)
    assert costly == [n for n, w in zip(("_input_gradient", "_weight_gradient"), wanted, strict=True) if w]


@pytest.mark.parametrize("kernel", [4, 16])
def test_it_is_the_plain_layer_with_the_same_weights(kernel: int) -> None:
    mine = UpConv2d(3, 5, kernel)
    plain = nn.ConvTranspose2d(3, 5, kernel, stride=2, padding=kernel // 2 - 1)
    plain.load_state_dict(mine.state_dict())
    x = torch.randn(2, 3, 5, 4)
    assert mine(x).shape == (2, 5, 10, 8)
    torch.testing.assert_close(mine(x), plain(x), rtol=0, atol=0)


def test_the_bias_can_be_left_to_what_follows() -> None:
    layer = UpConv2d(3, 5, 4)
    x = torch.randn(2, 3, 5, 4)
    convolved, bias = layer.split(x)
    torch.testing.assert_close(convolved + bias.view(-1, 1, 1), layer(x))


@pytest.mark.parametrize("kernel", [3, 6, 10])
def test_kernels_that_do_not_double_are_refused(kernel: int) -> None:
    with pytest.raises(ValueError, match=f"kernel_size must be a multiple of 4, not {kernel}"):
        UpConv2d(3, 5, kernel)


@pytest.mark.gpu
@pytest.mark.parametrize("autocast", [False, True])
def test_on_a_gpu_it_is_the_plain_layer_in_float64(autocast: bool) -> None:
    layer = UpConv2d(16, 40, 16).cuda()
    plain = nn.ConvTranspose2d(16, 40, 16, stride=2, padding=7).double()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(3, 16, 24, 17, requires_grad=True)
    there = x.detach().cuda().requires_grad_()
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        found = layer(there)
    assert found.dtype == (torch.bfloat16 if autocast else torch.float32)
    grad = torch.randn(found.shape)
    found.backward(grad.to(found))
    plain(x.double()).backward(grad.double())
    share = 0.02 if autocast else 2e-3  # of the largest: bfloat16, TF32
    for made, wanted in (
        (there.grad, x.grad),
        (layer.weight.grad, plain.weight.grad),
        (layer.bias.grad, plain.bias.grad),
    ):
        assert made is not None
        assert wanted is not None
        assert (made.cpu().double() - wanted).abs().max() <= share * wanted.abs().max()
