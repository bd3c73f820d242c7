"""The block's MLP with a number of hidden channels that matrix units take."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fluxflow_exp.models.flow_block import MLP, Block
from fluxflow_exp.models.layers import ActivationName, make_activation


@pytest.mark.parametrize("hidden", [16, 21, 23])
@pytest.mark.parametrize("activation", ["bezier", "silu", "gelu", "relu"])
def test_zeros_beside_the_hidden_channels_change_neither_values_nor_gradients(
    activation: ActivationName, hidden: int
) -> None:
    layers = mlp(activation, hidden)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    wanted, wanted_slopes = both_ways(layers, x, layers)
    found, slopes = both_ways(layers.aligned, x, layers)
    torch.testing.assert_close(found, wanted)
    for one, other in zip(slopes, wanted_slopes, strict=True):
        torch.testing.assert_close(one, other)


def test_its_products_have_multiples_of_eight_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Size] = []
    product = torch.nn.functional.linear

    def recorded(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        seen.append(weight.shape)
        return product(x, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", recorded)
    mlp("bezier", 682).aligned(torch.zeros(1, 8, dtype=torch.float64))
    assert seen == [(3440, 8), (8, 688)]


def test_names_of_weights_are_those_of_a_sequence() -> None:
    block = Block(8, 2, 8, 4.0, "bezier", skip=False, shared_modulation=False, values=None)
    assert {"mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias"} <= set(block.state_dict())


@pytest.mark.gpu
def test_a_gpu_computes_what_a_cpu_does() -> None:
    layers, x = mlp("bezier", 21).float(), torch.randn(4, 8)
    wanted = layers(x)
    torch.testing.assert_close(layers.cuda()(x.cuda()).cpu(), wanted, rtol=2e-3, atol=2e-3)


def mlp(activation: ActivationName, hidden: int) -> MLP:
    torch.manual_seed(0)
    act, expansion = make_activation(activation, dim=-1)
    return MLP(nn.Linear(8, hidden * expansion), act, nn.Linear(hidden, 8)).double()


def both_ways(function: Callable[[Tensor], Tensor], x: Tensor, layers: MLP) -> tuple[Tensor, tuple[Tensor, ...]]:
    x = x.clone().requires_grad_()
    found = function(x)
    return found.detach(), torch.autograd.grad(found.square().sum(), (x, *layers.parameters()))
