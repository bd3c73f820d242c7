"""The block's MLP with a number of hidden channels that matrix units take; an attention's sums of gradients."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow_exp.models.flow_block import MLP, Attention, Block
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


def test_an_adapted_attention_adds_to_the_gradient_of_its_input_in_one_order() -> None:
    """Four layers read x, and a sum of four rounds by their order: runs go on with the bits that they began with."""
    torch.manual_seed(0)
    attention = Attention(32, 2, 32)
    attention.query, attention.key_value = Adapted(32, 32), Adapted(32, 64)  # type: ignore[assignment]
    x = torch.randn(4, 16, 32, requires_grad=True)

    query, (key, value) = attention.query(x), attention.key_value(x).chunk(2, -1)
    query, key, value = (each.unflatten(-1, (2, -1)).transpose(1, 2) for each in (query, key, value))
    query, key = attention.query_norm(query), attention.key_norm(key)
    wanted = attention.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))

    made, _ = attention(x, x)
    (slope,), (wanted_slope,) = (torch.autograd.grad(each.square().sum(), x) for each in (made, wanted))
    assert torch.equal(made, wanted)
    assert torch.equal(slope, wanted_slope)


class Adapted(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs, bias=False)
        self.down, self.up = nn.Linear(inputs, 4, bias=False), nn.Linear(4, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.base(x) + self.up(self.down(x))
        return made


def mlp(activation: ActivationName, hidden: int) -> MLP:
    torch.manual_seed(0)
    act, expansion = make_activation(activation, dim=-1)
    return MLP(nn.Linear(8, hidden * expansion), act, nn.Linear(hidden, 8)).double()


def both_ways(function: Callable[[Tensor], Tensor], x: Tensor, layers: MLP) -> tuple[Tensor, tuple[Tensor, ...]]:
    x = x.clone().requires_grad_()
    found = function(x)
    return found.detach(), torch.autograd.grad(found.square().sum(), (x, *layers.parameters()))
