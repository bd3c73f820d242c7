"""Other values of a key."""

from typing import Literal

import pytest

from fluxflow_exp.config.compose import typed
from fluxflow_exp.config.schema import MicroBatch
from fluxflow_exp.losses.flow_matching import RectifiedFlow
from fluxflow_exp.wiring.other_values import hints_of, others, replaced
from tests.conftest import toy


@pytest.mark.parametrize("value", [True, 0, 3, 0.0, 1.5, -0.5, "white", [0.9, 0.99], ["compressor"]])
def test_others_are_other_values_of_the_same_kind(value: object) -> None:
    found = others(value)
    assert found
    assert value not in found
    assert all(type(other) is type(value) or isinstance(value, float | int) for other in found)


@pytest.mark.parametrize("value", [None, [], {}])
def test_what_is_off_has_no_other_value(value: object) -> None:
    assert others(value) == []


def test_named_choices_are_the_only_ones() -> None:
    assert others("never", Literal["never", "always"] | None) == ["always"]
    hint = hints_of(RectifiedFlow)["time_distribution"]
    assert set(others("uniform", hint)) == {"logit_normal", "cosine"}
    assert hints_of(MicroBatch)


def test_a_replaced_key_leaves_the_original(tmp_path) -> None:
    config = typed(toy(tmp_path))
    changed = replaced(config, "stage.steps.vae.trainer.kl.weight", 7.0)
    assert changed.stage.steps["vae"].trainer["kl"]["weight"] == 7.0
    assert config.stage.steps["vae"].trainer["kl"]["weight"] == 1e-3
    assert replaced(config, "stage.steps.vae.ema.decay", 0.5).stage.steps["vae"].ema.decay == 0.5
