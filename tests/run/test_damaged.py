"""A run with a file that is not whole is told of by name, and is in nobody's way."""

import json
from pathlib import Path

import pytest

from fluxflow_exp import plot, status, sync, verify
from fluxflow_exp.compare import command as compare
from fluxflow_exp.report import command as report
from fluxflow_exp.run import wandb
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.sweep import jobs
from tests.conftest import toy

TORN = ['{"half', "[1]", "null", "{}", b"\xff\xfe\x00"]
EMPTY = "01-vae-00000030-final-e3b0c44298fc1c14.pt"  # a checkpoint without a byte, and its digest
NAMES = ["run.json", "config.yaml", "digests.json", "failure.json", "submitted.json", "summary.json"]


def _write(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def study(study: Path) -> Path:
    for run in study.iterdir():
        (run / "checkpoints" / EMPTY).touch()
    return study


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", TORN, ids=range(len(TORN)))
def test_status_and_verify_go_on(study: Path, name: str, content: str | bytes, capsys: pytest.CaptureFixture) -> None:
    torn = study / "silu-1"
    if name == "failure.json":  # which is asked for where there is no summary
        (torn / "summary.json").unlink()
    _write(torn / name, content)
    assert status.main([str(study)]) == int(name not in ("digests.json", "submitted.json", "summary.json"))
    told = capsys.readouterr().out
    assert "3 done" in told or "4 done" in told
    if name in NAMES[:2]:
        assert "1 damaged" in told
        assert str(torn / name) in told
    code = verify.main([str(study)])
    told = capsys.readouterr().out
    assert told.count(", 0 problems") >= 3
    if name in NAMES[:2] or (name == "digests.json" and content != "{}"):
        assert code == 1
        assert f"damaged: {torn / name}" in told


def test_a_run_without_its_record_is_damaged(study: Path, capsys: pytest.CaptureFixture) -> None:
    run = RunFolder(study / "silu-1")
    run.record.unlink()
    assert status.main([str(study)]) == 1
    assert f"{run.record} is missing" in capsys.readouterr().out
    assert verify.main([str(study)]) == 1
    assert f"{run.record} is missing" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "content"), [("run.json", '{"half'), ("config.yaml", "a: ["), ("run.json", "[]")])
def test_other_commands_leave_it_out(
    study: Path, name: str, content: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    _write(study / "silu-1" / name, content)
    assert compare.main([str(study), "--by", "model.activation", "--metric", "val_psnr"]) == 0
    assert f"left out: {study / 'silu-1'} is damaged: {study / 'silu-1' / name}" in capsys.readouterr().err
    monkeypatch.setattr(wandb, "unreachable", lambda: None)
    monkeypatch.setattr(sync, "_send", lambda folder: 0)
    assert sync.main([str(study)]) == 1
    assert "left out" in capsys.readouterr().err
    for command in (compare.main, report.cli):
        words = ["--by", "model.activation", "--metric", "val_psnr"] if command is compare.main else []
        assert command([str(study / "silu-1"), *words]) == 2
        assert str(study / "silu-1" / name) in capsys.readouterr().err


def test_a_damaged_job_of_a_sweep_is_not_run_and_fresh_moves_it_aside(tmp_path: Path) -> None:
    values = toy(tmp_path, stage="vae")
    job = jobs._job("seed=0", ["seed=0"], values)
    job.folder.record.write_text("{half")
    again = jobs._job("seed=0", ["seed=0"], values)
    assert (job.runs, again.runs, again.entry.state) == (True, False, "damaged")
    assert str(job.folder.record) in again.entry.note
    fresh = jobs._job("seed=0", ["seed=0"], {**values, "resume": "fresh"})
    assert fresh.runs
    assert fresh.folder.path.with_name(f"{fresh.folder.path.name}.old-1").is_dir()


def test_graphs_of_others_are_drawn(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    rows = study / "silu-1" / "graph" / "training_metrics_vae.jsonl"
    rows.write_text("no row\n" + rows.read_text())
    monkeypatch.setattr("sys.argv", ["plot", str(study / "silu-0"), str(study / "silu-1")])
    assert plot.cli() == 1
    assert f"error: {rows} is damaged" in capsys.readouterr().err
    assert (study / "silu-0" / "graph" / "training_overview.png").exists()


def test_a_half_list_of_digests_is_written_anew_and_said(study: Path, capsys: pytest.CaptureFixture) -> None:
    from fluxflow_exp.console import Console

    run = RunFolder(study / "silu-1")
    verify.write_digests(run, Console())
    whole = json.loads(run.digests.read_text())
    run.digests.write_text(run.digests.read_text()[:50])
    verify.write_digests(run, Console())
    assert json.loads(run.digests.read_text()) == whole
    assert f"{run.digests} cannot be read" in capsys.readouterr().out
