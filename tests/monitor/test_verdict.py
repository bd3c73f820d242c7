"""Planted courses of a held-out loss, and courses that are nothing but noise."""

import math
import random

import pytest

from fluxflow_exp.monitor.verdict import SURE, rate_left, roughness, trend, verdict

MEASURE = "not more time, lowers it; which publish.weights draws best, measuring tells"


def said(losses: list[float], *, rate: float = 1.0) -> str:
    return verdict([(46 * (i + 1), loss) for i, loss in enumerate(losses)], metric="val_flow", rate=rate)


def course(n: int, turn: int, slope: float, noise: float) -> list[float]:
    """A fall to 1 at evaluation `turn`, from there on `slope` an evaluation."""
    rng = random.Random(0)
    falling = [1 + math.exp(-5 * (i + 1) / turn) - math.exp(-5) for i in range(turn)]
    return [x + rng.gauss(0, noise) for x in [*falling, *(1 + slope * (i + 1) for i in range(n - turn))]]


def test_a_loss_that_rises_names_its_lowest_point() -> None:
    line = (
        "held-out loss (val_flow) was lowest at update 4,600 of 6,900 and has risen since: more data or augmentation, "
    )
    assert said(course(150, 100, 2e-4, 1e-5)) == line + MEASURE
    assert said(course(12, 6, 2e-2, 1e-3)).endswith(MEASURE)
    points = [(46 * (i + 1), loss) for i, loss in enumerate(course(150, 100, 2e-4, 1e-5))]
    line = "held-out loss (val_l1) was lowest at update 4,600 of 6,900 and has risen since: more data, not more time"
    assert verdict(points, metric="val_l1") == line


def test_few_evaluations_after_the_lowest_tell_a_rise_by_its_size() -> None:
    """Of a flow on 12,163 emoji, evaluated six times: a third above its lowest value in the end."""
    assert said([0.4609, 0.4132, 0.4050, 0.4328, 0.4975, 0.5486]) == (
        "held-out loss (val_flow) was lowest at update 138 of 276 and has risen since: more data or augmentation, "
        + MEASURE
    )
    assert "hardly moves" in said([0.4609, 0.4132, 0.4050, 0.4328, 0.4075, 0.4386])


def test_a_loss_that_falls_asks_for_time_and_a_flat_one_for_nothing() -> None:
    assert said(course(40, 40, 0, 1e-4)) == "held-out loss (val_flow) was still falling at update 1,840: longer pays"
    assert "hardly moves" in said(course(60, 20, 0, 1e-3))
    creeping = [1 - 1e-6 * i for i in range(30)]
    assert "hardly moves" in said(creeping)


def test_a_loss_that_falls_while_the_rate_runs_out_asks_for_a_longer_schedule() -> None:
    falling = course(40, 40, 0, 1e-4)
    assert said(falling, rate=0.01) == (
        "held-out loss (val_flow) was still falling at update 1,840, where the learning rate has run out (0.01 of its "
        "highest): a longer schedule may pay"
    )
    assert said(falling, rate=0.0).endswith("(0 of its highest): a longer schedule may pay")
    assert said(falling, rate=0.5).endswith("at update 1,840: longer pays")
    assert said(course(150, 100, 2e-4, 1e-5), rate=0.01) == said(course(150, 100, 2e-4, 1e-5))


def test_the_rate_that_is_left_is_that_of_the_player_who_has_most() -> None:
    assert rate_left([{"flow": 1e-4}, {"flow": 2e-4}, {"flow": 2e-6}]) == pytest.approx(0.01)
    assert rate_left([{"flow": 2e-4, "text_encoder": 1e-5}, {"flow": 0.0, "text_encoder": 5e-6}]) == 0.5
    assert rate_left([]) == rate_left([{}]) == 1.0


def test_of_few_evaluations_the_lowest_is_named_and_no_more() -> None:
    assert said([3.0, 1.0, 2.0]) == (
        "held-out loss (val_flow) was lowest at update 92 of 138; 3 evaluations are too few to say more"
    )
    assert said([3.0]).endswith("at update 46 of 46; 1 evaluation is too few to say more")


@pytest.mark.parametrize("evaluations", [5, 6, 30])
def test_noise_is_seldom_taken_for_a_trend(evaluations: int) -> None:
    rng = random.Random(1)
    lines = [said([1 + rng.gauss(0, 0.1) for _ in range(evaluations)]) for _ in range(400)]
    assert sum("risen" in line or "falling" in line for line in lines) < 0.08 * len(lines)


def test_roughness_is_the_noise_on_a_straight_course() -> None:
    rng = random.Random(2)
    assert roughness([1.0, 3.0, 5.0, 7.0]) == 0
    assert roughness([0.01 * i + rng.gauss(0, 0.1) for i in range(4000)]) == pytest.approx(0.1, rel=0.05)


def test_the_statistic_is_that_of_mann_and_kendall() -> None:
    """Five values in order: S = 10, variance 5 · 4 · 15 / 18."""
    assert trend([1, 2, 3, 4, 5]) == pytest.approx(9 / math.sqrt(5 * 4 * 15 / 18))
    assert trend([1, 2, 3, 4, 5]) > SURE
    assert trend([5, 4, 3, 2, 1]) == -trend([1, 2, 3, 4, 5])
    assert trend([1, 1, 1, 1, 1]) == trend([1, 2, 3, 4]) == 0


def test_a_model_that_was_better_before_is_said_to_have_been() -> None:
    points = [(0, 1.57), *((update, 1.6 + update / 40) for update in range(2, 14, 2))]
    assert verdict(points, metric="val_flow").startswith(
        "held-out loss (val_flow) was lowest before the first of 12 updates and has risen since"
    )
