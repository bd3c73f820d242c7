"""Where runs of a study are to be started, and which ones side by side."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import slurm
from fluxflow_exp.study import command, course, launch
from fluxflow_exp.study.children import ANY, Child
from fluxflow_exp.study.spec import Spec
from tests.study import test_runs
from tests.study.test_spec import FIVE, study

GPU = FIVE.replace("hardware=cpu", "hardware=h200")
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


@pytest.mark.parametrize(
    ("hardware", "where", "gpus", "visible", "wanted"),
    [
        ({}, "here", 1, None, [ANY]),
        ({}, "here", 2, None, ["0", "1"]),
        ({}, "here", 2, "5,3", ["5", "3"]),
        ({"devices": 2}, "here", 5, None, ["0,1", "2,3"]),
        ({"devices": 2}, "here", 3, None, [ANY]),
        ({}, "slurm", 4, None, [ANY]),
        ({"device": "cpu"}, "here", 2, None, [ANY]),
        ({"device": "auto"}, "here", 0, None, [ANY]),
    ],
)
def test_each_run_has_gpus_of_its_own_unless_several_are_to_share_one(
    monkeypatch: pytest.MonkeyPatch,
    hardware: dict[str, Any], where: str, gpus: int, visible: str | None, wanted: list[str],
) -> None:  # fmt: skip
    runs: Any = [SimpleNamespace(values={"hardware": {"device": "cuda", "devices": 1, **hardware}})]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    with patch("torch.cuda.device_count", return_value=gpus):
        for side_by_side in (1, 3) if where == "here" else (1,):
            spec: Any = SimpleNamespace(where=where, side_by_side=side_by_side)
            assert launch.places(spec, runs) == wanted * side_by_side


@pytest.mark.parametrize(
    ("gpus", "sharing", "names", "last"),
    [
        (1, 1, ["large", "small"], "seed=0,1"),
        (2, 1, ["large seed=0", "small seed=0", "large seed=1", "small seed=1"], "seed=1"),
        (1, 3, ["large seed=0", "small seed=0", "large seed=1", "small seed=1"], "seed=1"),
    ],
)
def test_side_by_side_each_run_is_a_sweep_of_its_own_a_seed_of_every_arm_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, sharing: int, names: list[str], last: str
) -> None:
    spec = study(tmp_path, GPU, f"output_root={tmp_path}", f"side_by_side={sharing}")
    made = course.Course(spec, search=False, trains=False)
    begun: list[Child] = []

    def run(commands: list[Child], *, places: list[str], group: str) -> list[int]:
        begun.extend(commands)
        assert len(places) == gpus * sharing
        assert group == "mine"
        return [2]

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("fluxflow_exp.study.children.run", run)
    with patch("torch.cuda.device_count", return_value=gpus), pytest.raises(Exception, match="could not begin"):
        launch.train(made.spec, made.runs([0, 1]))
    assert [each.name for each in begun] == names
    assert begun[-1].words[-1] == last
