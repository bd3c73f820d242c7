"""A signal keeps its size; second moments against quadrature."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow_exp.models.dilated_conv import DilatedConv2d
from fluxflow_exp.models.initialisation import SECOND_MOMENT, keep_size
from fluxflow_exp.models.layers import ActivationName, Conv2d, ConvActivation, DownConv2d, make_activation
from fluxflow_exp.models.transposed_conv import UpConv2d

LAYERS = {
    "conv": lambda a, b: Conv2d(a, b, 3, padding=1),
    "without a bias": lambda a, b: Conv2d(a, b, 3, padding=1, bias=False),
    "down": lambda a, b: DownConv2d(a, b, 8),
    "up": lambda a, b: UpConv2d(a, b, 16),
    "dilated": lambda a, b: DilatedConv2d(a, b, 5, dilation=2),
}


@pytest.mark.parametrize("name", ["silu", "gelu", "relu"])
def test_second_moments_are_those_of_a_standard_normal(name: ActivationName) -> None:
    activation, _ = make_activation(name, dim=1)
    x, step = np.linspace(-12, 12, 200001, retstep=True)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    values = activation(torch.from_numpy(x)).numpy()
    assert pytest.approx(float((values**2 * density).sum() * step), abs=1e-4) == SECOND_MOMENT[name]
    assert SECOND_MOMENT["bezier"] == SECOND_MOMENT["silu"]
    assert set(SECOND_MOMENT) == set(get_args(ActivationName))


@pytest.mark.parametrize("activation", get_args(ActivationName))
@pytest.mark.parametrize("layer", LAYERS)
def test_noise_of_size_1_leaves_with_size_1(layer: str, activation: ActivationName) -> None:
    torch.manual_seed(0)
    act, expansion = make_activation(activation, dim=1)
    convolution = LAYERS[layer](16, 24 * expansion)
    keep_size(convolution, activation)
    with torch.no_grad():
        found = ConvActivation(convolution, act)(torch.randn(2, 16, 48, 48))
    margin = found.shape[-1] // 4  # zeros around the picture count less
    inner = found[..., margin:-margin, margin:-margin]
    assert pytest.approx(1, abs=0.15) == float(inner.square().mean().sqrt())


@pytest.mark.parametrize("layer", LAYERS)
def test_a_bezier_activation_begins_as_the_silu_of_its_control_points(layer: str) -> None:
    torch.manual_seed(0)
    act, expansion = make_activation("bezier", dim=1)
    convolution = LAYERS[layer](4, 6 * expansion)
    keep_size(convolution, "bezier")
    x = torch.randn(1, 4, 16, 16)
    before: Tensor = convolution(x)
    assert (before[:, 0::5] - before[:, 1::5]).abs().max() > 0.1  # t is another number
    torch.testing.assert_close(act(before), F.silu(before[:, 1::5]))


def test_all_control_points_and_t_get_gradients_of_their_own_soon() -> None:
    torch.manual_seed(0)
    act, _ = make_activation("bezier", dim=1)
    convolution = nn.Conv2d(4, 5, 1)
    keep_size(convolution, "bezier")
    optimizer = torch.optim.SGD(convolution.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        (act(convolution(torch.randn(64, 4, 4, 4))) - 1).square().mean().backward()
        optimizer.step()
    rows = [row.flatten() for row in convolution.weight]
    assert all((rows[i] - rows[j]).norm() > 1e-3 for i in range(5) for j in range(i))
    assert convolution.weight.grad is not None
    assert all(float(row.norm()) > 1e-4 for row in convolution.weight.grad)
