"""Limits of health numbers: what is warned of, and what is not."""

import random
from typing import Any

import pytest

from fluxflow_exp.monitor.health import SPIKE_ROWS, HealthContext, largest_spike, robust_score, warnings

GAN = HealthContext("vae_gan", latent_channels=16, discriminator_updates=1000, adaptive=(0.1, 100.0))
SOUND = {
    "logit_gap": 0.5,
    "hinge_loss": 1.6,
    "gradient_ratio": 0.3,
    "adaptive_weight": 1e-5,
    "active_units": 14.0,
    "latent_std": 1.1,
    "latent_max": 6.0,
    "dead_activations": 0.02,
    "dead_in_one": 0.3,
    "loss_spike": 4.0,
}


def test_sound_numbers_give_no_warning() -> None:
    assert warnings(SOUND, GAN) == {}
    assert warnings({}, HealthContext("flow")) == {}


@pytest.mark.parametrize(
    ("changed", "code", "says"),
    [
        ({"hinge_loss": 0.05, "logit_gap": 6.0}, "discriminator_wins", "stage.steps.vae_gan.optimizers.discriminator"),
        ({"logit_gap": -0.004, "hinge_loss": 2.0}, "discriminator_blind", "after 1000 updates"),
        ({"gradient_ratio": 1e-5}, "gradient_ratio", "the discriminator hardly learns"),
        ({"gradient_ratio": 2e4}, "gradient_ratio", "the generator hardly learns"),
        ({"adaptive_weight": 9.95}, "adaptive_weight", "at its limit"),
        ({"active_units": 1.0}, "posterior_collapse", "1 of 16 latent channels"),
        ({"latent_std": 80.0}, "latents_explode", "deviation 80"),
        ({"latent_max": 4e4}, "latents_explode", "reach 4e"),
        ({"dead_activations": 0.6}, "dead_activations", "60%"),
        ({"dead_in_one": 1.0}, "dead_activations", "100% in the worst"),
    ],
)
def test_each_sign_is_warned_of_alone(changed: dict[str, float], code: str, says: str) -> None:
    found = warnings({**SOUND, **changed}, GAN)
    assert list(found) == [code]
    assert says in found[code]
    assert "try" in found[code]


def test_a_discriminator_that_has_hardly_begun_may_be_blind() -> None:
    young = HealthContext("vae_gan", latent_channels=16, discriminator_updates=50, adaptive=(0.1, 100.0))
    assert warnings({**SOUND, "logit_gap": 0.0, "hinge_loss": 2.0}, young) == {}


def test_a_weight_that_is_not_adaptive_is_not_judged() -> None:
    assert warnings({**SOUND, "adaptive_weight": 99.0}, HealthContext("vae_gan", 16, 1000)) == {}


def test_all_of_few_channels_may_be_needed_and_none_is_a_collapse() -> None:
    assert warnings({"active_units": 1.0}, HealthContext("vae", latent_channels=4)) == {}
    assert "posterior_collapse" in warnings({"active_units": 0.0}, HealthContext("vae", latent_channels=4))


def test_the_robust_score_is_that_of_a_normal_deviation() -> None:
    rng = random.Random(0)
    values = [rng.gauss(5.0, 2.0) for _ in range(20001)]
    assert robust_score(11.0, values) == pytest.approx(3.0, rel=0.03)
    assert robust_score(1.0, [1.0] * 9) == 0.0
    assert robust_score(1.02, [1.0] * 9) == pytest.approx(2.0)  # a flat loss is given 1 %


def rows(values: list[float], name: str = "vae") -> list[dict[str, Any]]:
    found = [{"kind": "train", "global_step": 20 * (i + 1), "metrics": {name: v}} for i, v in enumerate(values)]
    return [{"kind": "held_out", "global_step": 20, "metrics": {name: 1e9}}, *found]


def falling(n: int) -> list[float]:
    """A loss as it falls, with noise of 3 %."""
    rng = random.Random(1)
    return [(0.05 + 1 / (i + 1)) * (1 + 0.03 * rng.gauss(0, 1)) for i in range(n)]


def test_a_spike_is_found_where_it_is_and_not_again() -> None:
    values = falling(60)
    values[50] *= 6
    score, spike = largest_spike(rows(values), ["vae"], since=0)
    assert spike == "vae"
    assert score is not None
    assert score > 10
    assert largest_spike(rows(values), ["vae"], since=20 * 51)[1] is None
    assert largest_spike(rows(values), ["flow"], since=0) == (None, None)


@pytest.mark.parametrize("shape", [falling, lambda n: falling(n)[::-1], lambda n: [0.1 + 0.002 * i for i in range(n)]])
def test_falling_noisy_and_slowly_rising_losses_have_no_spike(shape: Any) -> None:
    series = shape(200)
    if series[0] < series[-1]:
        series = series[:150]  # the last rows of a reversed fall are a spike by any measure
    assert largest_spike(rows(series), ["vae"], since=0)[1] is None


def test_losses_that_only_fall_have_risen_by_nothing() -> None:
    assert largest_spike(rows([1 / (i + 1) for i in range(40)]), ["vae"], since=0) == (0.0, None)


def test_too_few_rows_before_are_not_judged() -> None:
    assert largest_spike(rows([0.1] * 7 + [50.0]), ["vae"], since=0) == (None, None)
    assert largest_spike(rows([0.1] * (SPIKE_ROWS + 1) + [50.0]), ["vae"], since=0)[1] == "vae"


def test_nulls_are_left_out() -> None:
    values: list[Any] = [0.1] * 10 + [None] + [0.1] * 10
    assert largest_spike(rows(values), ["vae"], since=0) == (0.0, None)
