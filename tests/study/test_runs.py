"""Runs of a study by their folders: done, stale, or of no use."""

from pathlib import Path

import pytest

from fluxflow_exp import files
from fluxflow_exp.errors import UserError
from fluxflow_exp.run import opening, states
from fluxflow_exp.study.course import Course
from fluxflow_exp.study.runs import Run, refuse_changed
from tests.study.test_spec import FIVE, study


def plant(run: Run, *, done: bool = True) -> None:
    """The folder of `run` as its sweep's launch, and its end, leave it."""
    opening.create(run.folder, run.values, run.launched)
    record = run.folder.read_record()
    run.folder.write_record({**record, "started": True, "wall_seconds": 36.0, "steps": {"vae": {"updates": 2}}})
    if done:
        files.write_json(run.folder.summary, {})


def course(folder: Path, text: str = FIVE, *words: str) -> Course:
    return Course(study(folder, text, *words, f"output_root={folder}"), search=False)


def test_runs_are_found_again_whatever_the_order_of_their_words(tmp_path: Path) -> None:
    first = course(tmp_path).runs([0])
    for run in first:
        assert run.entry().state == states.NEW
        plant(run)
    again = course(tmp_path, FIVE.replace("stage=vae, hardware=cpu", "hardware=cpu, stage=vae"))
    assert [run.entry().state for run in again.runs([0])] == [states.DONE, states.DONE]
    assert [run.folder.path for run in again.runs([0])] == [run.folder.path for run in first]
    assert again.unused([0, 1]) == []


def test_a_changed_study_names_what_becomes_stale_and_does_not_use_it(tmp_path: Path) -> None:
    for run in course(tmp_path).runs([0, 1]):
        plant(run)
    now = course(tmp_path, FIVE.replace("batch_size=8", "batch_size=16"))
    assert [run.entry().state for run in now.runs([0, 1])] == ["done", "done", "new", "new"]
    assert now.unused([0, 1]) == ["small: 2 runs are not used: stale (stage.steps.vae.batch_size: 8 there, 16 now)"]
    fewer = course(tmp_path, FIVE.replace("small:", "tiny:"))
    assert fewer.unused([0]) == [
        "large: 1 run is not used: seed 1 is not asked for",
        "small is no arm of this study: 2 runs are not used",
    ]


def test_a_run_whose_files_have_changed_is_refused(tmp_path: Path) -> None:
    (run, *_) = course(tmp_path).runs([0])
    plant(run)
    frozen = run.folder.frozen()
    run.folder.freeze({**frozen, "optimizer": {**frozen["optimizer"], "lr": 0.5}})
    with pytest.raises(UserError, match=r"large, seed 0: stale: .*0\.5 there.*resume=fresh moves such runs aside"):
        refuse_changed([run])
