"""LeCam regularisation and feature matching against closed forms."""

import pytest
import torch

from fluxflow_exp.losses.feature_matching import FeatureMatching
from fluxflow_exp.losses.lecam import LeCam


def logits(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def test_lecam_penalises_what_crosses_the_running_means():
    loss = LeCam(decay=0.9)
    first = loss(logits(2.0, 4.0), logits(-1.0, -3.0), torch.empty(0))
    assert first["lecam"].tolist() == [0.0, 0.0]
    loss.seen = first["lecam_seen"]
    loss.end_update(lambda means: means)
    assert loss.anchors.tolist() == [3.0, -2.0]
    found = loss(logits(1.0), logits(0.5), loss.anchors)
    assert found["lecam"].item() == pytest.approx((1.0 + 2.0) ** 2 + (3.0 - 0.5) ** 2)
    loss.seen = found["lecam_seen"]
    loss.end_update(lambda means: means)
    assert loss.anchors.tolist() == pytest.approx([0.9 * 3.0 + 0.1 * 1.0, 0.9 * -2.0 + 0.1 * 0.5])


def test_lecam_follows_the_whole_batch_whatever_the_micro_batch():
    together, apart = LeCam(), LeCam()
    real, fake = torch.randn(4, 1, 2, 2), torch.randn(4, 1, 2, 2)
    none = torch.empty(0)
    together.seen = together(real, fake, none)["lecam_seen"]
    apart.seen = torch.cat([apart(real[rows], fake[rows], none)["lecam_seen"] for rows in (slice(0, 1), slice(1, 4))])
    for loss in (together, apart):
        loss.end_update(lambda means: means)
    torch.testing.assert_close(together.anchors, apart.anchors)


def test_feature_matching_is_the_mean_over_layers():
    fake = [torch.ones(2, 3, 4, 4), torch.zeros(2, 5, 2, 2)]
    real = [torch.zeros(2, 3, 4, 4), torch.full((2, 5, 2, 2), 0.5)]
    assert FeatureMatching()(fake, real)["feature_matching"].tolist() == [0.75, 0.75]
