"""Runs of so many minutes: they end then, and to the bit as runs of as many updates do, however often killed."""

import json
import os
from pathlib import Path

import pytest

from fluxflow_exp import pipeline
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import clock
from fluxflow_exp.run import opening
from fluxflow_exp.run.checkpoint import CheckpointStore
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.refusals import sharing_problems
from fluxflow_exp.trainers import publish
from fluxflow_exp.trainers.base import Trainer
from tests.conftest import toy
from tests.helpers.children import KillDuring, finish, finish_ranks
from tests.helpers.outcomes import assert_same
from tests.helpers.slowed import slowed


def ticking() -> None:
    """A clock that goes on whenever it is looked at, and in no other way; on another rank faster."""
    seen, tick = [0.0], 0.01 * (1 + int(os.environ.get("RANK", "0")))

    def now() -> float:
        seen[0] += tick
        return seen[0]

    clock.now = now


def recorded(run: Path) -> dict[str, int]:
    minutes = json.loads((run / "run.json").read_text())["minutes"]
    return {name: each["updates"] for name, each in minutes.items()}


def counted(run: Path) -> list[str]:
    """Overrides for a run of as many updates."""
    return [
        f"stage.steps.{name}.{key}={updates}"
        for name, updates in recorded(run).items()
        for key in ("n_epochs", "max_updates")
    ]


@pytest.mark.slow
def test_killed_three_times_it_ends_with_the_bytes_of_an_undisturbed_run_of_as_many_updates(tmp_path: Path) -> None:
    seldom = ["data.n_images=96", "checkpoint.every_updates=6", "samples.every_epochs=3"]
    values = toy(tmp_path / "timed", "minutes=0.045", "stage.steps.vae.n_epochs=1", *seldom)
    log, run = tmp_path / "log", tmp_path / "timed" / "quickstart"
    kill = KillDuring("fluxflow_exp.trainers.pace:_Pace", "_save", 1)
    assert finish(values, log, ticking, kill) == -9
    assert "minutes" not in json.loads((run / "run.json").read_text())  # it is measured again
    assert sharing_problems({**values, "resume": "fresh"}) == []  # what it left is no sweep's job
    assert finish(values, log, ticking, KillDuring("fluxflow_exp.trainers.base:Trainer", "advance", 8)) == -9
    first = recorded(run)
    assert list(first) == ["vae"]
    assert finish(values, log, ticking, KillDuring("fluxflow_exp.trainers.base:Trainer", "_save", 3)) == -9
    assert finish(values, log, ticking) == 0, log.read_text()
    assert recorded(run).items() >= first.items()
    assert min(recorded(run).values()) > 5, recorded(run)
    assert finish(toy(tmp_path / "counted", *seldom, *counted(run)), log) == 0, log.read_text()
    assert_same(run, tmp_path / "counted" / "quickstart")
    assert not list(run.glob("tmp-*"))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of a clock that goes on with what a run does alone: 2 s an update, 6 s an evaluation, …"""
    return slowed(
        monkeypatch,
        [
            (Trainer, "update", 2.0),
            (Trainer, "validate", 6.0),
            (Trainer, "draw", 4.0),
            (CheckpointStore, "save", 3.0),
            (publish, "publish_step", 1.0),
        ],
    )


@pytest.mark.slow
@pytest.mark.parametrize("given", ["minutes=8", "stage.steps.vae.minutes=8"])
def test_it_ends_when_it_was_told_to(
    tmp_path: Path, slow: list[float], capsys: pytest.CaptureFixture[str], given: str
) -> None:
    few = ["checkpoint.every_updates=20", "log_every=50", "hardware.price_per_hour=3"]
    pipeline.run(toy(tmp_path, "~stage.steps.vae_gan", "~stage.steps.flow", given, *few))
    assert 480 * 0.96 <= slow[0] <= 480 * 1.01
    said = capsys.readouterr().out
    assert "Step 1: vae: 8 min with evaluation, pictures and saves; updates of 8 images, 4 an epoch" in said
    assert "Total: 8 min, 0.40 USD; begun now, it ends at " in said
    updates = recorded(tmp_path / "quickstart")["vae"]
    assert f"Step vae: {updates} updates of 2 s each; with evaluation, pictures and saves it ends at " in said
    assert f"Duration: {updates / 4:.3g} epochs, {updates} updates" in said


@pytest.mark.slow
def test_minutes_that_an_earlier_command_has_asked_for_in_vain_can_be_lengthened(
    tmp_path: Path, slow: list[float]
) -> None:
    """What is there of it, e.g. of a start that was killed while it timed, stays."""
    alone = ["~stage.steps.vae_gan", "~stage.steps.flow", "log_every=50"]
    few = toy(tmp_path, *alone, "stage.steps.vae.minutes=0.5")
    opening.create(RunFolder(tmp_path / "quickstart"), few, [])
    with pytest.raises(UserError, match=r"with one update of 2 s,.*\n  Ask for resume=extend stage.steps.vae.minutes="):
        pipeline.run(few)
    assert (tmp_path / "quickstart" / "failure.json").exists()
    pipeline.run(toy(tmp_path, *alone, "stage.steps.vae.minutes=2", "resume=extend"))
    before = recorded(tmp_path / "quickstart")["vae"]
    pipeline.run(toy(tmp_path, *alone, "stage.steps.vae.minutes=3", "resume=extend"))
    assert recorded(tmp_path / "quickstart")["vae"] > before
    done = json.loads((tmp_path / "quickstart" / "run.json").read_text())["steps"]["vae"]
    assert done["updates"] == recorded(tmp_path / "quickstart")["vae"]


@pytest.mark.slow
def test_ranks_agree_on_what_the_first_one_measures(tmp_path: Path) -> None:
    alone = ["~stage.steps.vae_gan", "~stage.steps.flow", "stage.steps.vae.minutes=0.02"]
    values, logs = toy(tmp_path, *alone), tmp_path / "log"
    assert finish_ranks(values, logs, 2, ticking) == [0, 0], logs.with_name("log.0").read_text()
    done = json.loads((tmp_path / "quickstart" / "run.json").read_text())["steps"]["vae"]
    assert done["updates"] == recorded(tmp_path / "quickstart")["vae"] > 8
