"""Where runs of a study are to be started."""

from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import slurm
from fluxflow_exp.study import command, course, launch
from fluxflow_exp.study.spec import Spec
from tests.study import test_runs
from tests.study.test_spec import FIVE, study

SAID = "where=slurm: planted. Start it on a machine of the cluster, or say where=here or where=slurm_local"


class Planned:
    """A course whose arms are neither composed nor predicted."""

    def __init__(self, spec: Spec, **_: Any) -> None:
        self.spec = spec

    def predict(self) -> None: ...

    def unused(self, seeds: list[int]) -> list[str]:
        return []


def test_slurm_that_is_not_there_is_said_with_the_plan_and_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slurm, "lacking", lambda: "planted")
    monkeypatch.setattr(course, "Course", Planned)
    spec = study(tmp_path, FIVE, "where=slurm", f"output_root={tmp_path}")
    words = [str(spec.source), f"output_root={tmp_path}"]
    assert command.main([*words, "where=slurm"]) == 2
    assert capsys.readouterr().err == f"error: {SAID}\n"
    assert command.main([*words, "where=slurm", "--plan"]) == 0
    assert capsys.readouterr().out.endswith(f"\nNote: {SAID}\n")
    assert command.main([*words, "where=slurm_local", "--plan"]) == 0
    assert "Note" not in capsys.readouterr().out


def test_a_study_that_has_begun_is_answered_without_slurm_and_no_further_run_is_launched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "lacking", lambda: "planted")
    made = test_runs.course(tmp_path, FIVE, "where=slurm")
    runs = made.runs([0])
    test_runs.plant(runs[0])
    assert launch.train(made.spec, runs[:1]) == []
    with pytest.raises(UserError, match="where=slurm: planted"):
        launch.train(made.spec, runs)
    assert not runs[1].folder.path.exists()
