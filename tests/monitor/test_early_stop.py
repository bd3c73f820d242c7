"""When a step ends early: by rule, and through an interruption."""

import json
import math
from pathlib import Path

import pytest

from fluxflow_exp import pipeline
from fluxflow_exp.config.schema import Transition
from fluxflow_exp.monitor.early_stop import EarlyStop
from tests.conftest import toy


def watch(**rule: object) -> EarlyStop:
    return EarlyStop(Transition(**{"metric": "vae", "smoothing": 3, **rule}), updates_per_epoch=4)


def fires(found: EarlyStop, values: list[float | None], *, skipped: tuple[int, ...] = ()) -> int | None:
    """The first update (from 1) after which it ends."""
    for update, value in enumerate(values, start=1):
        metrics = {} if value is None else {found.metric: value}
        if found.after_update(metrics, update, skipped=update in skipped):
            return update
    return None


def test_the_mean_of_the_last_values_must_be_below() -> None:
    assert fires(watch(below=1.0), [5.0, 0.1, 0.1, 0.1, 0.1]) == 4
    assert fires(watch(below=1.0), [0.1, 0.1]) is None


def test_missing_values_and_infinite_ones_and_skipped_updates_count_for_nothing() -> None:
    assert fires(watch(below=1.0), [0.1, None, math.nan, 0.1, -math.inf, 0.1]) == 6
    assert fires(watch(below=1.0), [0.1, 0.1, 0.1, 0.1], skipped=(2,)) == 4
    assert fires(watch(below=1.0), [None] * 50) is None


@pytest.mark.parametrize("metric", ["vae", "ssim"])  # whatever a loss is called, less of it is better
def test_patience_counts_epochs_without_progress(metric: str) -> None:
    falling = [10.0 - i for i in range(8)]
    assert fires(watch(metric=metric, patience=2), [*falling, *[3.0] * 20]) == 20
    assert fires(watch(metric=metric, patience=2), [None] * 40) is None


def test_max_epochs_ends_whatever_the_metric() -> None:
    assert fires(watch(below=0.0, max_epochs=2), [1.0] * 20) == 8


def test_held_out_metrics_are_taken_as_they_are() -> None:
    found = watch(metric="val_psnr", above=20.0)
    assert found.after_evaluation({"val_psnr": 19.0}) is None
    assert found.after_evaluation({}) is None
    assert found.after_evaluation({"val_psnr": 20.5}) == "val_psnr 20.5 > 20"
    stalled = watch(metric="val_psnr", patience=2)
    assert [bool(stalled.after_evaluation({"val_psnr": v})) for v in (10.0, 11.0, 11.0, 10.5)] == [
        False, False, False, True,
    ]  # fmt: skip


def test_state_survives_a_restart() -> None:
    first, values = watch(patience=2, below=0.5), [1.0, 0.9, 0.8, 0.9, 0.9]
    fires(first, values)
    second = watch(patience=2, below=0.5)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.state_dict() == first.state_dict()
    assert fires(first, [0.1] * 5) == fires(second, [0.1] * 5)


RULE = "stage.steps.vae.transition_on"


def test_a_step_ends_when_its_metric_is_reached_and_the_next_one_begins(tmp_path: Path) -> None:
    chosen = [f"{RULE}={{metric: vae, below: 100.0, smoothing: 3}}", "stage.steps.flow.max_updates=2"]
    values = toy(tmp_path, "~stage.steps.vae_gan", *chosen)
    pipeline.run(values)
    run = tmp_path / "quickstart"
    steps = json.loads((run / "summary.json").read_text())["steps"]
    assert steps["vae"]["updates"] == 3
    assert "vae" in steps["vae"]["ended_by"]
    assert "val_psnr" in steps["vae"]["final"]
    assert steps["flow"]["updates"] == 2
    before = (run / "summary.json").read_bytes()
    pipeline.run(values)  # complete: nothing is trained again
    assert (run / "summary.json").read_bytes() == before
    (run / "summary.json").unlink()
    record = json.loads((run / "run.json").read_text())
    del record["steps"]["vae"]  # killed between the last save and the record
    (run / "run.json").write_text(json.dumps(record))
    pipeline.run(values)
    again = json.loads((run / "summary.json").read_text())["steps"]
    assert again["vae"]["updates"] == 3
    assert again["vae"]["final"] == steps["vae"]["final"]


def test_early_stopping_on_a_held_out_plateau(tmp_path: Path) -> None:
    rule = f"{RULE}={{metric: val_psnr, patience: 1, min_delta: 100}}"
    pipeline.run(toy(tmp_path, "~stage.steps.vae_gan", "~stage.steps.flow", "stage.steps.vae.n_epochs=6", rule))
    step = json.loads((tmp_path / "quickstart" / "summary.json").read_text())["steps"]["vae"]
    assert step["epochs"] == 2
    assert "no better than" in step["ended_by"]
