"""Time distributions against their densities."""

import math

import pytest
import torch

from fluxflow_exp.losses.flow_matching import RectifiedFlow
from fluxflow_exp.losses.times import draw

NORMAL = torch.randn(200_000, generator=torch.Generator().manual_seed(0))


def test_logit_normal_times():
    times = RectifiedFlow(time_mean=-0.5, time_std=0.8).times(NORMAL)
    assert times.median().item() == pytest.approx(1 / (1 + math.exp(0.5)), abs=5e-3)
    assert torch.logit(times).std().item() == pytest.approx(0.8, abs=5e-3)


def test_uniform_times():
    times = draw(NORMAL, distribution="uniform", mean=0.0, std=1.0)
    assert times.mean().item() == pytest.approx(0.5, abs=3e-3)
    assert times.var().item() == pytest.approx(1 / 12, abs=1e-3)


def test_cosine_times_are_those_of_fluxflow():
    """Shares above 500, 700 and 900 of 1000 and the mean, as its multinomial weights give them."""
    times = draw(NORMAL, distribution="cosine", mean=0.0, std=1.0)
    assert times.mean().item() == pytest.approx(0.296, abs=2e-3)
    for limit, share in ((0.5, 0.1804), (0.7, 0.0421), (0.9, 0.0016)):
        assert (times >= limit).double().mean().item() == pytest.approx(share, rel=0.15)
    assert times.min() >= 0
    assert times.max() < 1
