"""Averaged weights against the recurrence."""

import pytest
import torch

from fluxflow_exp.trainers.ema import EMA


def test_it_is_the_recurrence_with_warm_up():
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1.0)
    ema, expected = EMA({"m": module}, decay=0.5), 1.0
    for n, value in enumerate([2.0, 5.0, -1.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 3.0]):
        module.weight.data.fill_(value)
        ema.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
        assert ema.average["m"]["weight"].item() == pytest.approx(expected, rel=1e-5)


def test_buffers_are_followed_and_applied_is_undone():
    module = torch.nn.BatchNorm1d(2)
    ema = EMA({"m": module}, decay=0.9)
    module.running_mean.fill_(3.0)
    module.weight.data.fill_(7.0)
    ema.update()
    assert ema.average["m"]["running_mean"].tolist() == [3.0, 3.0]
    with ema.applied():
        assert module.weight[0].item() == pytest.approx(0.1 * 1 + 0.9 * 7)
    assert module.weight.tolist() == [7.0, 7.0]


def test_its_state_comes_back():
    module = torch.nn.Linear(2, 2)
    first = EMA({"m": module}, decay=0.9)
    module.weight.data.add_(1)
    first.update()
    second = EMA({"m": torch.nn.Linear(2, 2)}, decay=0.9)
    second.load_state_dict(first.state_dict())
    assert second.updates == 1
    assert all(torch.equal(second.average["m"][k], v) for k, v in first.average["m"].items())


def test_a_decay_of_one_is_refused():
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        EMA({}, decay=1.0)
