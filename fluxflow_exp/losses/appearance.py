"""Colour and contrast of whole images, channel by channel; FluxFlow 0.4 and 0.5 have the three, with these weights.

Statistics are those of one image, so that neither batch nor micro-batch changes them. None looks at where a value
stands: they steer tint and saturation beside a reconstruction loss, and replace none.
"""

import torch
from torch import Tensor

from fluxflow_exp.config.bounds import PositiveFloat
from fluxflow_exp.losses.terms import Terms

SMALL = 1e-4  # keeps the deviation of an even image differentiable


class ColorStatistics:
    """Squared differences of each channel's mean and standard deviation, averaged over channels."""

    def __init__(self, *, weight: PositiveFloat = 0.05) -> None:
        self.weights = {"color_stats": _positive("color_stats", weight)}

    def __call__(self, reconstruction: Tensor, images: Tensor) -> Terms:
        """Both (batch, 3, height, width). Gives `color_stats`, (batch,)."""
        found, wanted = reconstruction.float(), images.float()
        means = found.mean((2, 3)) - wanted.mean((2, 3))
        deviations = _deviation(found) - _deviation(wanted)
        return {"color_stats": (means.square() + deviations.square()).mean(1)}


class Histogram:
    """Half the Wasserstein-1 distance of each channel's values, averaged over channels; 1 is black against white.

    It is the mean difference of the two cumulative histograms over [-1, 1] with endlessly many bins, and needs none:
    sorted values are compared in pairs, so that every pixel gets a gradient.
    """

    def __init__(self, *, weight: PositiveFloat = 0.02) -> None:
        self.weights = {"histogram": _positive("histogram", weight)}

    def __call__(self, reconstruction: Tensor, images: Tensor) -> Terms:
        """Both (batch, 3, height, width). Gives `histogram`, (batch,)."""
        found = reconstruction.float().flatten(2).sort(-1).values
        wanted = images.float().flatten(2).sort(-1).values
        return {"histogram": 0.5 * (found - wanted).abs().mean((1, 2))}


class Contrast:
    """Squared relative difference of each channel's standard deviation, averaged over channels.

    An even original has no contrast to compare with: deviations below 0.01 count as 0.01.
    """

    def __init__(self, *, weight: PositiveFloat = 0.1) -> None:
        self.weights = {"contrast": _positive("contrast", weight)}

    def __call__(self, reconstruction: Tensor, images: Tensor) -> Terms:
        """Both (batch, 3, height, width). Gives `contrast`, (batch,)."""
        wanted = _deviation(images.float()).clamp_min(0.01)
        found = _deviation(reconstruction.float()).clamp_min(0.01)
        return {"contrast": (found / wanted - 1).square().mean(1)}


def _deviation(images: Tensor) -> Tensor:
    """(batch, 3, height, width) → (batch, 3)."""
    return torch.sqrt(images.var((2, 3), correction=0) + SMALL**2)


def _positive(name: str, weight: float) -> float:
    if weight <= 0:
        raise ValueError(f"{name}: weight must be positive, not {weight}; leave the loss out to switch it off")
    return weight
