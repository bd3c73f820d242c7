"""How often a step is looked at where the configuration leaves that open."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp import pipeline
from fluxflow_exp.config.compose import typed
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import read_rows
from fluxflow_exp.step_length import Length
from fluxflow_exp.trainers import intervals
from fluxflow_exp.trainers.base import Trainer
from tests.conftest import toy
from tests.helpers.trainers import trainer_of

LONG = ["stage.steps.vae.n_epochs=12", "stage.steps.vae.batch_size=32", "data.n_images=32"]  # an update an epoch
DUE = [2, 3, 4, 5, 6, 8, 9, 10, 11, 12]


def looks(run: Path, kind: str) -> list[int]:
    rows = read_rows(run / "graph" / "training_metrics_vae.jsonl")
    return [row["global_step"] for row in rows if row["kind"] == kind]


def test_a_resumed_run_is_looked_at_where_an_undisturbed_one_is_and_the_plan_says_how_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    advance, ends = Trainer.advance, [7]

    def until(self: Trainer, batch: Any) -> None:
        if self.update_index == ends[0]:
            raise KeyboardInterrupt
        advance(self, batch)

    monkeypatch.setattr(Trainer, "advance", until)
    values = toy(tmp_path, *LONG, stage="vae")
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(values)
    ends[0] = 99
    pipeline.run(values)
    for kind in ("held_out", "health", "samples"):
        assert looks(tmp_path / "vae", kind) == DUE, kind
    assert "    evaluation and pictures: 10 times in 12 epochs\n" in capsys.readouterr().out


def test_a_run_that_began_with_numbers_goes_on_with_them_where_none_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(*words: str) -> tuple[Any, ...]:
        setup = trainer_of(toy(tmp_path, *LONG, *words, stage="vae"), "vae", tmp_path / "vae").setup
        return setup.log_every, setup.samples.every_epochs, setup.evaluation.every_epochs

    number = ["log_every=7", "samples.every_epochs=null", "evaluation.every_epochs=5"]
    auto = [f"{word.partition('=')[0]}=auto" for word in number]
    assert asked(*auto) == (1, "auto", "auto")
    RunFolder(tmp_path / "vae").freeze(toy(tmp_path, *LONG, *number, stage="vae"))
    assert asked(*auto) == (7, None, 5)
    assert asked("log_every=3", "samples.every_epochs=1", auto[2]) == (3, 1, 5)
    pipeline.run(toy(tmp_path, *LONG, "validate=true", stage="vae"))
    assert "evaluation" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "every"),
    [
        ([], "auto"),
        (["scheduler=linear"], "auto"),
        (["scheduler=plateau"], 1),
        (["scheduler=plateau", "evaluation.every_epochs=3"], 3),
        (["stage.steps.vae.transition_on={metric: vae, below: 0.1}"], 1),
        (["stage.steps.vae.transition_on={metric: val_l1, patience: 3}", "evaluation.every_epochs=null"], None),
        (["scheduler._target_=tests.trainers.test_intervals.own"], 1),
    ],
)
def test_what_counts_evaluations_has_one_at_each_epoch(tmp_path: Path, words: list[str], every: Any) -> None:
    config = typed(toy(tmp_path, *words, stage="vae"))
    step = config.stage.steps["vae"]
    assert intervals.evaluation(config, step).every_epochs == every


def test_a_number_that_has_a_step_on_few_pictures_looked_at_all_the_time_is_told(tmp_path: Path) -> None:
    config = typed(toy(tmp_path, "evaluation.every_epochs=1", "samples.every_epochs=4", stage="flow"))
    step = replace(config.stage.steps["flow"], trainer={"_target_": "fluxflow_exp.trainers.finetune.FinetuneTrainer"})
    (line,) = intervals.short_epochs(config, step, Length(updates=60, updates_per_epoch=5, batch_size=8, micro_batch=8))
    assert line.startswith("    note: an epoch is 5 updates: give evaluation.every_epochs=auto, or more time")
    auto = replace(config, evaluation=replace(config.evaluation, every_epochs="auto"))
    for settings, updates in ((config, 19), (auto, 60)):
        length = Length(updates=updates, updates_per_epoch=5, batch_size=8, micro_batch=8)
        assert intervals.short_epochs(settings, step, length) == []
