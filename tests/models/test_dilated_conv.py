"""The dilated convolution with its own weight gradient, against torch's in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fluxflow_exp.models.dilated_conv import DilatedConv2d, _Dilated, weight_gradient


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 3), (5, 2)])
@pytest.mark.parametrize("size", [(1, 1, 1, 1, 1), (2, 4, 6, 7, 9), (3, 2, 5, 4, 3)], ids=str)
def test_gradients_are_those_of_autograd(size: tuple[int, ...], kernel: int, dilation: int) -> None:
    batch, channels_in, channels_out, height, width = size
    x = torch.randn(batch, channels_in, height, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(channels_out, channels_in, kernel, kernel, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(x, weight, padding=dilation * (kernel // 2), dilation=dilation)
    found = _Dilated.apply(x, weight, dilation)
    torch.testing.assert_close(found, plain)
    grad = torch.randn_like(plain)
    wanted = torch.autograd.grad(plain, (x, weight), grad)
    torch.testing.assert_close(torch.autograd.grad(found, (x, weight), grad), wanted)


def test_the_weight_gradient_takes_channels_last_and_half_precision() -> None:
    x = torch.randn(2, 8, 6, 5, dtype=torch.float64)
    weight = torch.randn(4, 8, 5, 5, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(x, weight, padding=4, dilation=2)
    grad = torch.randn_like(plain)
    (wanted,) = torch.autograd.grad(plain, weight, grad)
    made = weight_gradient(*(v.to(torch.bfloat16, memory_format=torch.channels_last) for v in (x, grad)), 5, 2)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.double(), wanted, rtol=0.02, atol=0.02 * wanted.abs().max().item())


def test_only_what_is_asked_for_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr("fluxflow_exp.models.dilated_conv.weight_gradient", lambda *v: calls.append(1))
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    _Dilated.apply(x, torch.randn(3, 2, 3, 3), 1).sum().backward()
    assert x.grad is not None
    assert not calls


def test_it_is_the_plain_layer_with_the_same_weights() -> None:
    mine = DilatedConv2d(3, 5, 5, dilation=2)
    plain = nn.Conv2d(3, 5, 5, padding=4, dilation=2)
    plain.load_state_dict(mine.state_dict())
    x = torch.randn(2, 3, 7, 6)
    torch.testing.assert_close(mine(x), plain(x), rtol=0, atol=0)
    convolved, bias = mine.split(x)
    assert bias is not None
    torch.testing.assert_close(convolved + bias.view(-1, 1, 1), plain(x))
    with pytest.raises(ValueError, match="kernel_size must be odd, not 4"):
        DilatedConv2d(3, 5, 4, dilation=2)


@pytest.mark.gpu
def test_on_a_gpu_under_autocast_it_is_the_plain_layer() -> None:
    mine = DilatedConv2d(16, 40, 5, dilation=2).cuda()
    plain = nn.Conv2d(16, 40, 5, padding=4, dilation=2).double()
    plain.load_state_dict(mine.state_dict())
    x = torch.randn(2, 16, 24, 17, device="cuda", requires_grad=True)
    exact = x.detach().cpu().double().requires_grad_()
    with torch.autocast("cuda", torch.bfloat16):
        found = mine(x)
    wanted = plain(exact)
    grad = torch.randn_like(found)
    found.backward(grad)
    wanted.backward(grad.cpu().double())
    for made, right in ((found, wanted), (x.grad, exact.grad), (mine.weight.grad, plain.weight.grad)):
        assert made is not None
        assert right is not None
        error = (made.detach().cpu().double() - right.detach()).norm() / right.detach().norm()
        assert error < 0.01
