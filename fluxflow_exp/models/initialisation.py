"""Initial weights with which a signal keeps its size through many activated convolutions that have no norm.

Torch's own, U(±1/√fan_in), leave a SiLU 0.29 and a Bezier activation 0.16 of a small input's size, and less of a
transposed convolution's, whose fan-in torch takes for the other one: after FluxFlow's twelve layers nothing of an
image is left, and neither is a gradient on the way back.
"""

import torch
from torch import Tensor, nn

from fluxflow_exp.models.layers import ActivationName

# E[activation(x)²] of a standard normal x. A Bezier activation begins as the SiLU of its control points.
SECOND_MOMENT: dict[ActivationName, float] = {"bezier": 0.3558, "silu": 0.3558, "gelu": 0.4252, "relu": 0.5}


def keep_size(convolution: nn.Conv2d | nn.ConvTranspose2d, activation: ActivationName) -> None:
    """Fill a convolution so that inputs of mean square 1 leave `activation` after it with about 1 (He et al. 2015).

    Weights are normal, biases 0. The four control points of a Bezier activation get the same weights: their curve is
    then one point, SiLU(p), wherever t is. With weights of their own the mean square of its output would go as a power
    of about 1.4 of the input's, instead of SiLU's 1.2, and a dozen layers would blow signals up or lose them.
    """
    transposed = isinstance(convolution, nn.ConvTranspose2d)
    height, width = convolution.kernel_size
    if transposed:  # a pixel of its output meets the taps of one phase of the stride
        height, width = height // convolution.stride[0], width // convolution.stride[1]
    fan_in = convolution.in_channels // convolution.groups * height * width
    nn.init.normal_(convolution.weight, std=(fan_in * SECOND_MOMENT[activation]) ** -0.5)
    if activation == "bezier":
        _join_control_points(convolution.weight, dim=1 if transposed else 0)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)


@torch.no_grad()
def _join_control_points(weight: Tensor, *, dim: int) -> None:
    """p₁, p₂ and p₃ of each five output channels (t, p₀, p₁, p₂, p₃) along `dim` become p₀."""
    quintuples = torch.unflatten(weight, dim, (-1, 5))
    quintuples.narrow(dim + 1, 2, 3).copy_(quintuples.narrow(dim + 1, 1, 1))
