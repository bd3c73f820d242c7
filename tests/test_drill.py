"""The drill passes on what survives interruptions, and fails on what only seems to."""

import json
import os
from pathlib import Path

import pytest

from fluxflow_exp import drill, seeding, verify
from fluxflow_exp.drill import WAYS, Drill
from fluxflow_exp.errors import UserError
from fluxflow_exp.run import folder
from fluxflow_exp.trainers import player
from fluxflow_exp.trainers.ema import EMA
from tests.conftest import TOY, TOY_STEPS, toy

RARELY = ["log_every=1", "evaluation.every_epochs=100", "samples.every_epochs=100"]
VAE = ["stage.steps.vae.batch_size=8", "stage.steps.vae.n_epochs=5", "checkpoint.every_updates=3", *RARELY]


def test_a_toy_pipeline_survives_six_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    longer = [o.replace("n_epochs=2", "n_epochs=5") for o in TOY_STEPS]
    code = drill.main([*TOY, *longer, *RARELY, f"output_root={tmp_path}", "--kills", "6"])
    said = capsys.readouterr().out
    assert code == 0, said
    assert "PASSED: the same bytes" in said
    killed = tmp_path / "quickstart-drill" / "killed"
    certificate = json.loads((killed / "certificate.json").read_text())
    assert certificate["kills"] == dict(zip(WAYS, (2, 1, 1, 1, 1), strict=True))
    assert certificate["compared"]["tensors"] > 150
    assert certificate["compared"]["states"] > 300
    assert certificate["compared"]["rows"] > 40
    assert certificate["compared"]["pictures"] > 10
    assert json.loads((killed / "run.json").read_text())["restarts"] == 6
    assert verify.main([str(tmp_path / "quickstart-drill")]) == 0


def _ema_is_not_restored() -> None:
    EMA.load_state_dict = lambda self, state: None  # type: ignore[method-assign]


def _randomness_is_keyed_by_process() -> None:
    honest = seeding.derive
    seeding.derive = lambda *keys: honest(os.getpid() if "posterior" in keys else 0, *keys)


def _momenta_are_lost() -> None:
    restore = player.Player.load_state_dict

    def forget(self, state):  # type: ignore[no-untyped-def]
        state["optimizer"]["state"] = {}
        restore(self, state)

    player.Player.load_state_dict = forget  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        pytest.param(_ema_is_not_restored, "weights/vae.safetensors", marks=pytest.mark.slow),
        (_randomness_is_keyed_by_process, "graph/"),
        pytest.param(_momenta_are_lost, "checkpoints/01-vae", marks=pytest.mark.slow),
    ],
)
def test_a_planted_fault_fails_the_drill(tmp_path: Path, fault: drill.Fault, where: str) -> None:
    values = toy(tmp_path, *VAE, stage="vae")
    certificate = Drill(values, tmp_path / "faulty", kills=2, faults=[fault]).run()
    assert not certificate["passed"]
    assert any(line.startswith(where) for line in certificate["differences"]), certificate["differences"]


def test_too_short_a_run_is_no_proof(tmp_path: Path) -> None:
    short = [*VAE, "stage.steps.vae.max_updates=1"]
    with pytest.raises(UserError, match="the run ended before kill"):
        Drill(toy(tmp_path, *short, "checkpoint.every_updates=1", stage="vae"), tmp_path / "short", kills=30).run()


def test_a_drill_that_goes_on_is_not_moved_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "LOCK_SECONDS", 0.0)
    live = folder.RunFolder(tmp_path / "quickstart-drill")
    live.path.mkdir()
    live.lock()
    assert drill.main([*TOY, *TOY_STEPS, f"output_root={tmp_path}"]) == 2
    assert "another process is training" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["quickstart-drill"]


def test_mistakes_are_said_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert drill.main(["hardware=cpu", "hardware.exact=false", f"output_root={tmp_path}"]) == 2
    assert "hardware.exact=true" in capsys.readouterr().err
    assert drill.main(["hardware=cpu", "minutes=3", f"output_root={tmp_path}"]) == 2
    assert "not minutes" in capsys.readouterr().err
    assert drill.main(["hardware=cpu", "modle=tiny"]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_quickstart_survives_twenty_kills(tmp_path: Path) -> None:
    assert drill.main(["hardware=cpu", "checkpoint.every_updates=50", f"output_root={tmp_path}", "--kills", "20"]) == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_ranks_survive_twenty_kills(tmp_path: Path) -> None:
    longer = [o.replace("n_epochs=2", "n_epochs=15") for o in TOY_STEPS]
    words = [*TOY, *longer, *RARELY, "hardware.devices=2", f"output_root={tmp_path}", "--kills", "20"]
    assert drill.main(words) == 0
