"""What the plan says of a step that was given minutes."""

import dataclasses
from pathlib import Path

from fluxflow_exp.config.compose import typed
from fluxflow_exp.plan.forecast import Forecast, lines, timed
from tests.conftest import toy

FOUND = Forecast(
    step="flow",
    trainer="flow",
    updates=20,
    batch_size=8,
    micro_batch=8,
    parameters={"flow_processor": 1000},
    trained=1000,
    tflop=1.0,
    peak_gib=1.0,
    peak_gib_by_kind={"plain": 1.0},
    fits=None,
    largest_micro_batch=None,
    seconds=0.5,
    hours=0.1,
    dollars=None,
    checkpoints_gib=0.1,
    latent_cache_gib=None,
    text_cache_gib=None,
)


def test_time_and_money_are_those_that_were_asked_for_and_updates_follow(tmp_path: Path) -> None:
    hardware = typed(toy(tmp_path, "hardware.price_per_hour=3")).hardware
    found = timed(FOUND, 50, hardware, ranks=2)
    assert (found.updates, found.hours, found.dollars) == (6000, 50 / 60, 5.0)
    said = "\n".join(lines(found, hardware))
    assert "6 PFLOP in all" in said
    assert "50 min, as asked; at about 0.5 s an update 6000 of them, less what evaluation, pictures and saves" in said
    assert "about 5.00 USD" in said


def test_without_a_card_the_number_of_updates_is_left_open(tmp_path: Path) -> None:
    hardware = typed(toy(tmp_path)).hardware
    found = timed(dataclasses.replace(FOUND, seconds=None, hours=None), 50, hardware, ranks=1)
    assert (found.updates, found.hours, found.dollars) == (0, 50 / 60, None)
    said = "\n".join(lines(found, hardware))
    assert "in all" not in said
    assert "50 min, as asked; the number of updates is measured when the step begins" in said
    assert "set hardware.price_per_hour" in said
