"""The held-out flow loss against its closed form."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from fluxflow_exp.evaluation.flow_loss import flow_loss
from fluxflow_exp.losses.flow_matching import RectifiedFlow

MEAN = 3.0
BLOCKS = (0, 64), (64, 6)  # of 70 places: the first one, and how many; the first one is the draw's seed


class Compressor:
    downscale, vae_dim = 4, 2

    def __call__(self, images: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=lambda noise: MEAN + 0 * noise)


class Flow:
    def __init__(self, scale: float) -> None:
        self.scale, self.times = scale, torch.empty(0)

    def normalise(self, latents: Tensor) -> Tensor:
        return latents - MEAN

    def __call__(self, position: Tensor, times: Tensor, texts: list[str]) -> Tensor:
        """`scale` times the velocity of data that are 0, whose position is time × noise."""
        self.times = times
        return self.scale * position / times.view(-1, 1, 1, 1)


def measured(scale: float, seen: list[Tensor] | None = None) -> tuple[Tensor, Flow]:
    flow = Flow(scale)
    found = flow_loss(
        torch.zeros(16, 3, 8, 16), ["a"] * 16, compressor=Compressor(), flow=flow, text_encoder=list,
        objective=RectifiedFlow(), source=torch.Generator().manual_seed, places=range(16), total=16, seen=seen,
    )  # fmt: skip
    return found, flow


def test_the_true_velocity_has_no_loss_and_none_at_all_that_of_the_noise() -> None:
    source = torch.Generator().manual_seed(0)
    noise = [torch.randn(16, 2, 2, 4, generator=source) for _ in range(2)][1]  # the first draw is the posterior's
    assert measured(1.0)[0].tolist() == pytest.approx([0.0] * 16, abs=1e-10)
    assert measured(0.0)[0].tolist() == pytest.approx(noise.square().flatten(1).mean(1).tolist())


def test_times_are_the_middles_of_eighths_and_latents_are_handed_on() -> None:
    seen: list[Tensor] = []
    _, flow = measured(1.0, seen)
    assert flow.times.tolist() == [each / 16 for each in (1, 3, 5, 7, 9, 11, 13, 15)] * 2
    assert [(each.shape, each.abs().max().item()) for each in seen] == [((16, 2, 2, 4), 0.0)]


@pytest.mark.parametrize("places", [range(70), range(60, 70), [5], [64, 69, 69]])
def test_an_image_has_the_draws_of_its_place_with_whatever_others_it_passes(places: Sequence[int]) -> None:
    whole = [torch.randn(2, count, 2, 2, 4, generator=torch.Generator().manual_seed(first)) for first, count in BLOCKS]
    noise = torch.cat([block[1] for block in whole])[list(places)]
    seen = flow_loss(
        torch.zeros(len(places), 3, 8, 16), ["a"] * len(places), compressor=Compressor(), flow=(flow := Flow(0.0)),
        text_encoder=list, objective=RectifiedFlow(), source=torch.Generator().manual_seed, places=places, total=70,
    )  # fmt: skip
    assert seen.tolist() == pytest.approx(noise.square().flatten(1).mean(1).tolist())
    assert flow.times.tolist() == [(place % 8 + 0.5) / 8 for place in places]
