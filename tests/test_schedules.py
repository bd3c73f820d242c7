"""Learning rates against their closed forms, and continuation in the middle."""

import math

import pytest
import torch

from fluxflow_exp import schedules

UPDATES = 100


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)


def rates(make, updates=UPDATES, **options):
    opt = optimizer()
    schedule = make(opt, updates=updates, **options)
    found = []
    for _ in range(updates + 1):
        found.append(opt.param_groups[0]["lr"])
        opt.step()
        schedule.step()
    return found


def test_cosine_is_the_closed_form_from_the_rate_to_the_floor():
    found = rates(schedules.cosine, floor=0.1)
    expected = [2 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * u / UPDATES))) for u in range(101)]
    assert found == pytest.approx(expected)
    assert found[0] == 2.0
    assert found[-1] == pytest.approx(0.2)


def test_warmup_is_a_share_below_one_and_a_count_otherwise():
    assert rates(schedules.constant, warmup=0.1)[:11] == pytest.approx([0.2 * k for k in range(1, 11)] + [2.0])
    assert rates(schedules.constant, warmup=4)[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])


def test_exponential_and_step_reach_their_ends():
    assert rates(schedules.exponential, floor=0.01)[50] == pytest.approx(0.2)
    fall = rates(schedules.step, drops=3, factor=0.5)
    assert [fall[u] for u in (0, 24, 25, 50, 75, 100)] == pytest.approx([2, 2, 1, 0.5, 0.25, 0.25])


def test_plateau_follows_the_held_out_metric_only():
    opt = optimizer()
    schedule = schedules.plateau(opt, updates=1, factor=0.5, patience=1)
    for _ in range(50):
        schedule.step()
    for metric in (1.0, 1.0, 1.0):
        schedule.observe(metric)
    assert opt.param_groups[0]["lr"] == 1.0


@pytest.mark.parametrize("name", ["constant", "cosine", "step", "exponential", "plateau"])
def test_a_schedule_continues_where_it_was_saved(name):
    make = getattr(schedules, name)

    def advance(opt, schedule, first, last):
        found = []
        for update in range(first, last):
            opt.step()
            schedule.step()
            if update % 5 == 0:
                schedule.observe(1.0)
            found.append(opt.param_groups[0]["lr"])
        return found

    whole = optimizer()
    expected = advance(whole, make(whole, updates=40), 0, 40)
    first = optimizer()
    schedule = make(first, updates=40)
    found = advance(first, schedule, 0, 17)
    second = optimizer()
    continued = make(second, updates=40)
    second.load_state_dict(first.state_dict())
    continued.load_state_dict(schedule.state_dict())
    assert found + advance(second, continued, 17, 40) == expected
