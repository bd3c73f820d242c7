"""A comparison on W&B, offline."""

from pathlib import Path

import pytest

from fluxflow_exp.compare import command as compare
from tests.helpers.studies import Make, command, study
from tests.helpers.wandb_files import history


def test_tables_and_plot_are_recorded_offline(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    root = study(make, [20.2, 21.3, 22.4], [20.0, 21.0, 22.0])
    assert compare.main(command(root, "--wandb", "study", "--out", str(tmp_path / "out"))) == 0
    assert "W&B: " in capsys.readouterr().out
    (row,) = history(tmp_path / "out")
    assert row["groups.nrows"] == 2
    assert row["pairs.nrows"] == 1
    assert row["plot._type"] == "image-file"
