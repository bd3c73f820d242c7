"""`make` and `check` on planted runs."""

from pathlib import Path

import pytest

from fluxflow_exp.reference.command import main
from tests.helpers.curves import plant


def test_make_writes_what_check_compares_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    runs = [str(plant(tmp_path, seed=seed).path) for seed in range(3)]
    file = str(tmp_path / "curves.json")
    assert main(["make", *runs, "--of", "planted flows", "--out", file]) == 0
    assert "evaluation.reference=" in capsys.readouterr().out
    assert main(["check", str(plant(tmp_path, times=1.3).path), "--reference", file]) == 0
    assert "val_flow 1.30 is above 0.961 to 1.06" in capsys.readouterr().out
    other = plant(tmp_path, "model.flow_processor.width=48", seed=7)
    assert main(["check", str(other.path), "--reference", file]) == 0
    assert "planted flows: model.flow_processor.width: 48 here, 32 there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seeds", "word", "why"),
    [
        ((0, 1), "", "at least 3 runs"),
        ((0, 1, 2), "model.flow_processor.width=48", "more than its seed: model.flow_processor.width"),
    ],
)
def test_runs_that_make_no_band_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seeds: tuple[int, ...], word: str, why: str
):
    runs = [plant(tmp_path, *([word] if word and seed else []), seed=seed).path for seed in seeds]
    assert main(["make", *map(str, runs), "--of", "x", "--out", str(tmp_path / "x.json")]) == 2
    assert why in capsys.readouterr().err


def test_an_unfinished_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    runs = [plant(tmp_path, seed=seed, ends=200).path for seed in range(3)]
    assert main(["make", *map(str, runs), "--of", "x", "--out", str(tmp_path / "x.json")]) == 2
    assert "step flow has not ended" in capsys.readouterr().err
    assert main(["check", str(tmp_path)]) == 2
    assert "holds 3 runs: name one of them" in capsys.readouterr().err


def test_a_pattern_that_no_folder_matches_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["make", str(tmp_path / "*seed*"), "--of", "x", "--out", str(tmp_path / "x.json")]) == 2
    assert f"there is no file or folder {tmp_path / '*seed*'}" in capsys.readouterr().err
