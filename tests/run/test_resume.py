"""A run that is killed again and again ends with the bytes of an undisturbed one.

Covers trainers/resume, loop and publish as well.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fluxflow_exp.errors import UserError
from fluxflow_exp.trainers.base import Trainer
from fluxflow_exp.trainers.ema import EMA
from tests.conftest import toy
from tests.helpers.children import KillDuring, finish, lively_scaler, moments, start
from tests.helpers.outcomes import assert_same, published

SIGKILL, SIGTERM = -9, 128 + 15


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders of an undisturbed toy pipeline, by precision."""
    root = tmp_path_factory.mktemp("undisturbed")
    for precision in ("fp32", "fp16"):
        values = toy(root / precision, f"hardware.precision={precision}")
        assert finish(values, root / f"{precision}.log", lively_scaler) == 0, (root / f"{precision}.log").read_text()
    return {precision: root / precision / "quickstart" for precision in ("fp32", "fp16")}


@pytest.mark.parametrize(("precision", "kills"), [("fp32", 12), pytest.param("fp16", 12, marks=pytest.mark.slow)])
def test_killed_at_many_moments_it_ends_with_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, Path], precision: str, kills: int
) -> None:
    values, log = toy(tmp_path, f"hardware.precision={precision}"), tmp_path / "log"
    killed = 0
    for moment in moments(kills, seed=7):
        code = finish(values, log, lively_scaler, moment)
        killed += code == SIGKILL
        assert code in (SIGKILL, 0), (moment, log.read_text())
    assert finish(values, log, lively_scaler) == 0, log.read_text()
    assert killed >= kills - 2
    assert_same(tmp_path / "quickstart", undisturbed[precision])
    record = json.loads((tmp_path / "quickstart" / "run.json").read_text())
    assert record["restarts"] >= killed - 1


def _forget_ema() -> None:
    EMA.load_state_dict = lambda self, state: None  # type: ignore[method-assign]


def _forget_scaler() -> None:
    torch.amp.GradScaler.load_state_dict = lambda self, state: None  # type: ignore[method-assign]


@pytest.mark.parametrize(("precision", "defect"), [("fp32", _forget_ema), ("fp16", _forget_scaler)])
def test_a_checkpoint_without_ema_or_scaler_is_noticed(
    tmp_path: Path, undisturbed: dict[str, Path], precision: str, defect: Any
) -> None:
    values, log = toy(tmp_path, f"hardware.precision={precision}"), tmp_path / "log"
    moment = KillDuring("fluxflow_exp.trainers.base:Trainer", "update", 5)
    assert finish(values, log, lively_scaler, moment) == SIGKILL
    assert finish(values, log, lively_scaler, defect) == 0, log.read_text()
    assert published(tmp_path / "quickstart") != published(undisturbed[precision])


def test_sigterm_saves_at_the_next_update_and_the_same_command_continues(
    tmp_path: Path, undisturbed: dict[str, Path]
) -> None:
    values, log = toy(tmp_path, "checkpoint.every_updates=null", "hardware.precision=fp32"), tmp_path / "log"
    child = start(values, log, _slow_updates)
    while "Batch 3" not in (log.read_text() if log.exists() else ""):
        child.join(0.02)
        assert child.exitcode is None, log.read_text()
    child.terminate()
    child.join(60)
    assert child.exitcode == SIGTERM, log.read_text()
    assert "The same command continues it" in log.read_text()
    saved = [p.name for p in (tmp_path / "quickstart" / "checkpoints").glob("*.pt")]
    assert len(saved) == 1
    assert finish(values, log) == 0
    assert_same(tmp_path / "quickstart", undisturbed["fp32"])


def _slow_updates() -> None:
    import time

    update = Trainer.update

    def slow(self: Trainer, batch: Any) -> dict[str, float]:
        time.sleep(0.2)
        return update(self, batch)

    Trainer.update = slow  # type: ignore[method-assign]


def test_a_finished_run_says_complete_and_changes_nothing(tmp_path: Path, undisturbed: dict[str, Path]) -> None:
    shutil.copytree(undisturbed["fp32"], tmp_path / "quickstart")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert finish(toy(tmp_path, "hardware.precision=fp32"), tmp_path / "log") == 0
    assert "complete" in (tmp_path / "log").read_text()
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_another_configuration_is_refused_key_by_key(tmp_path: Path, undisturbed: dict[str, Path]) -> None:
    from fluxflow_exp import pipeline

    shutil.copytree(undisturbed["fp32"], tmp_path / "quickstart")
    with pytest.raises(UserError, match=r"(?s)seed: 0 there, 1 asked.*resume=fresh [^,]*$"):
        pipeline.run(toy(tmp_path, "seed=1"))
    longer = toy(tmp_path, "seed=1", "stage.steps.flow.n_epochs=3", "resume=extend")
    with pytest.raises(UserError, match=r"(?m)n_epochs: 2 there, 3 asked(?s:.*)go on with that one, say seed=0$"):
        pipeline.run(longer)


def test_fresh_moves_the_old_run_aside(tmp_path: Path, undisturbed: dict[str, Path]) -> None:
    shutil.copytree(undisturbed["fp32"], tmp_path / "quickstart")
    values = toy(tmp_path, "resume=fresh", "~stage.steps.vae_gan", "~stage.steps.flow", "hardware.precision=fp32")
    assert finish(values, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "quickstart.old-1" / "weights" / "flow.safetensors").exists()
    assert not (tmp_path / "quickstart" / "weights" / "flow.safetensors").exists()


def test_extend_goes_on_with_the_last_step(tmp_path: Path, undisturbed: dict[str, Path]) -> None:
    shutil.copytree(undisturbed["fp32"], tmp_path / "quickstart")
    longer = toy(tmp_path, "resume=extend", "stage.steps.flow.n_epochs=3", "hardware.precision=fp32")
    assert finish(longer, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert "continuing after update 8 of 12" in (tmp_path / "log").read_text()
    steps = json.loads((tmp_path / "quickstart" / "summary.json").read_text())["steps"]
    assert [s["updates"] for s in steps.values()] == [8, 8, 12]
    earlier = load_file(tmp_path / "quickstart" / "weights" / "vae.safetensors")
    assert all(
        torch.equal(v, earlier[k]) for k, v in load_file(undisturbed["fp32"] / "weights" / "vae.safetensors").items()
    )


def test_extend_refuses_to_lengthen_an_earlier_step(tmp_path: Path, undisturbed: dict[str, Path]) -> None:
    from fluxflow_exp import pipeline

    shutil.copytree(undisturbed["fp32"], tmp_path / "quickstart")
    with pytest.raises(UserError, match=r"stage\.steps\.vae\.n_epochs"):
        pipeline.run(toy(tmp_path, "resume=extend", "stage.steps.vae.n_epochs=3"))


def test_a_mirror_brings_the_run_to_another_machine(tmp_path: Path, undisturbed: dict[str, Path]) -> None:
    values = toy(tmp_path / "first", f"checkpoint.mirror={tmp_path / 'volume'}", "hardware.precision=fp32")
    moment = KillDuring("fluxflow_exp.trainers.base:Trainer", "update", 13)
    assert finish(values, tmp_path / "log", moment) == SIGKILL
    shutil.rmtree(tmp_path / "first")
    assert finish(values, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert "back from its mirror" in (tmp_path / "log").read_text()
    assert_same(tmp_path / "first" / "quickstart", undisturbed["fp32"])
    (copied,) = (tmp_path / "volume").glob("quickstart-*/weights/final.*.safetensors")
    assert copied.read_bytes() == (undisturbed["fp32"] / "weights" / "final.safetensors").read_bytes()
