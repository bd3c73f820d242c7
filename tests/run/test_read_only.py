"""Runs are looked at where they cannot be written, and what would be written there can go elsewhere."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fluxflow_exp import evaluate, plot, status, verify
from fluxflow_exp.compare import command as compare
from fluxflow_exp.evaluation import record
from fluxflow_exp.report import command as report
from tests.helpers.read_only import make_read_only


@pytest.fixture
def study(study: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs which nothing can be written into."""
    make_read_only(study, monkeypatch)
    return study


def _plot(words: list[str]) -> int | None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["plot", *words])
        return plot.cli()


COMPARE = ["--by", "model.activation", "--metric", "val_psnr"]


@pytest.mark.parametrize(
    ("command", "run", "words", "file", "option"),
    [
        (report.cli, "silu-0", [], "report.html", "--output"),
        (report.cli, ".", [], "comparison.html", "--output"),
        (_plot, "silu-0", [], "training_overview.png", "--output"),
        (compare.main, ".", COMPARE, "comparison", "--out"),
    ],
)
def test_an_output_that_cannot_be_written_is_named_and_may_go_elsewhere(
    study: Path,
    command: Callable[[list[str]], int | None],
    run: str,
    words: list[str],
    file: str,
    option: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = str(study / run)
    assert command([source, *words]) == 2
    told = capsys.readouterr().err
    assert file in told
    assert f"{option} F" in told
    assert not command([source, *words, option, str(tmp_path / "elsewhere")])
    assert (tmp_path / "elsewhere").exists()


def test_status_and_verify_write_nothing(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([str(study)]) == 0
    assert "4 done" in capsys.readouterr().out
    assert verify.main([str(study / "silu-0")]) in (0, 1)
    assert "error" not in capsys.readouterr().err


def test_what_was_measured_is_told_before_it_is_written(
    study: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Subject:
        class run:
            path = study / "silu-0"

        name, file = "final", study / "silu-0" / "run.json"

    monkeypatch.setattr(evaluate, "evaluate", lambda options: ([], {"lpips": "left out"}, Subject, {}))
    monkeypatch.setattr(record, "table", lambda records: "psnr 31.5")
    assert evaluate.main([str(study / "silu-0")]) == 2
    told = capsys.readouterr()
    assert "psnr 31.5" in told.out
    assert re.search(r"final\.json.*--json FILE", told.err)
    assert evaluate.main([str(study / "silu-0"), "--json", str(tmp_path / "numbers.json")]) == 0
    assert re.search(r"final\.json.*numbers\.json alone", capsys.readouterr().out)
    assert json.loads((tmp_path / "numbers.json").read_text())["left_out"] == {"lpips": "left out"}
