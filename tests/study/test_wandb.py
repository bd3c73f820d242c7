"""A study's answer on W&B, offline: tables with numbers, sentences and pictures, in the group of its runs."""

from pathlib import Path

import pytest

from fluxflow_exp.config.schema import Tracking
from fluxflow_exp.study import output, wandb
from tests.helpers.answers import made_answer, pictured
from tests.helpers.wandb_files import group, history


def test_tables_pictures_and_plots_are_recorded_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    made = pictured(tmp_path, made_answer())
    output.write(made, tmp_path)
    assert "offline" in (wandb.send(made, tmp_path, Tracking(mode="offline")) or "")
    (row,) = history(tmp_path)
    assert {name: row[f"{name}.nrows"] for name in ("differences", "arms", "pictures")} == {
        "differences": 4, "arms": 3, "pictures": 2,
    }  # fmt: skip
    assert row["pictures.ncols"] == 3  # the prompt, and the two arms that have all pictures
    assert row["forest._type"] == row["curves._type"] == "image-file"
    assert group(tmp_path) == "activation"


def test_nothing_is_sent_with_tracking_off(tmp_path: Path) -> None:
    assert wandb.send(made_answer(), tmp_path, Tracking(mode="off")) is None
    assert list(tmp_path.iterdir()) == []
