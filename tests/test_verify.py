"""What is in a run folder is what was written there, or is told of."""

from pathlib import Path

import pytest

from fluxflow_exp import verify
from tests.conftest import toy
from tests.helpers.children import finish


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    words = ["stage.steps.vae.batch_size=8", "stage.steps.vae.n_epochs=1"]
    assert finish(toy(root, *words, stage="vae"), root / "log") == 0, (root / "log").read_text()
    return root / "vae"


def test_a_finished_run_verifies(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main([str(trained)]) == 0
    assert ", 0 problems" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["weights/final.safetensors", "config.yaml", "graph/training_metrics_vae.jsonl", "summary.json"]
)
def test_a_changed_byte_is_found(trained: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = trained / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert verify.main([str(trained)]) == 1
    assert f"{name} has changed" in capsys.readouterr().out
    path.unlink()
    assert verify.main([str(trained)]) == 1
    assert f"{name} is missing" in capsys.readouterr().out
    path.write_bytes(whole)
    assert verify.main([str(trained)]) == 0


def test_a_rotten_or_missing_checkpoint_is_found(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (final,) = trained.glob("checkpoints/*-final-*.pt")
    whole = final.read_bytes()
    final.write_bytes(whole[:100])
    assert verify.main([str(trained)]) == 1
    assert f"checkpoints/{final.name} is not whole" in capsys.readouterr().out
    final.unlink()
    assert verify.main([str(trained)]) == 1
    assert "the last checkpoint of step vae is missing" in capsys.readouterr().out
    final.write_bytes(whole)


def test_no_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main([str(tmp_path)]) == 2
    assert "there is no run" in capsys.readouterr().err
