"""What is refused, in which words, and that validate=true and the run say the same."""

import re
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp import pipeline
from fluxflow_exp.errors import UserError
from fluxflow_exp.run import opening, refusals
from fluxflow_exp.run.checkpoint import CheckpointStore
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.identity import identity_digest
from tests.conftest import toy
from tests.run.conftest import prepared

pytestmark = pytest.mark.usefixtures("quick")
ALONE = ["~stage.steps.vae_gan", "~stage.steps.flow"]


def begin(values: dict[str, Any], *, update: int = 0) -> RunFolder:
    """A run that was killed after so many updates of its first step."""
    known = prepared(values)
    folder: RunFolder = known[0]
    opening.open_run(*known, machine="here")
    folder.unlock()
    if update:
        store = CheckpointStore(folder.checkpoints, run=identity_digest(folder.frozen()))
        store.save({"update": update}, index=1, step=next(iter(values["stage"]["steps"])), update=update)
    return folder


def refused(values: dict[str, Any]) -> str:
    """What a run and validate=true say alike; neither changes a file."""
    folder = prepared(values)[0]
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as asked:
        pipeline.run({**values, "validate": True})
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before
    with pytest.raises(UserError) as trained:
        pipeline.run(values)
    assert str(asked.value) == str(trained.value)
    return str(asked.value)


def test_another_configuration_is_refused_alone_and_before_any_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(toy(tmp_path))
    capsys.readouterr()
    said = refused(toy(tmp_path, "seed=3"))
    assert capsys.readouterr().out == ""
    assert said.endswith(
        "  To go on with that one, say seed=0\n"
        "  Give this run its own name=…, or resume=fresh (moves the old folder aside)"
    )
    assert "resume=extend" in refused(toy(tmp_path, "stage.steps.flow.n_epochs=3"))  # where it helps
    assert "resume=extend" not in refused(toy(tmp_path, "stage.steps.flow.n_epochs=3", "seed=3"))
    assert "resume=extend" not in refused(toy(tmp_path, "stage.steps.vae.n_epochs=3"))


def test_a_folder_that_is_somebody_elses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart" / "thesis.tex").touch()
    assert "holds no run of this program" in refused(toy(tmp_path))
    assert refusals.refuse(*prepared(toy(tmp_path, "resume=fresh"))[:4]) == "new"


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path: Path) -> None:
    folder = begin(toy(tmp_path))
    folder.lock()
    assert "another process is training in" in refused(toy(tmp_path))
    folder.unlock()
    assert refusals.refuse(*prepared(toy(tmp_path))[:4]) == "continued"


@pytest.mark.parametrize(
    ("then", "advice"),
    [
        (["n_epochs=1"], "stage.steps.vae.n_epochs=4"),
        (["n_epochs=9", "max_updates=6"], "stage.steps.vae.max_updates=14"),
        (["n_epochs=1", "max_updates=6"], "stage.steps.vae.n_epochs=4 stage.steps.vae.max_updates=14"),
    ],
)
def test_a_step_that_would_end_behind_itself_is_told_how_long_it_must_be(
    tmp_path: Path, then: list[str], advice: str
) -> None:
    begin(toy(tmp_path, *ALONE, "stage.steps.vae.n_epochs=9"), update=14)
    said = refused(toy(tmp_path, *ALONE, *(f"stage.steps.vae.{each}" for each in then), "resume=extend"))
    assert "step vae stands at update 14, and would now end after " in said
    assert f"resume=extend with {advice} or more. " in said


@pytest.mark.parametrize("key", ["minutes", "stage.steps.vae.minutes"])
def test_a_step_of_minutes_is_told_how_many(tmp_path: Path, key: str) -> None:
    folder = begin(toy(tmp_path, *ALONE, f"{key}=2"), update=60)
    record = folder.read_record()
    folder.write_record({**record, "minutes": {"vae": {"updates": 100, "seconds": 100.0}}})
    said = refused(toy(tmp_path, *ALONE, f"{key}=1", "resume=extend"))
    assert "stands at update 60, and would now end after 40" in said
    least = re.search(rf"More minutes: resume=extend with {re.escape(key)}=([\d.]+) or more\. Give", said)
    assert least
    assert "n_epochs" not in said
    enough = toy(tmp_path, *ALONE, f"{key}={least[1]}", "resume=extend")
    assert refusals.refuse(*prepared(enough)[:4]) == "continued"


def test_a_step_on_its_way_is_not_given_minutes(tmp_path: Path) -> None:
    folder = begin(toy(tmp_path, *ALONE), update=4)
    assert "has begun without minutes" in refused(toy(tmp_path, *ALONE, "minutes=1", "resume=extend"))
    assert "minutes" not in folder.frozen()  # the run's own command goes on
    assert refusals.refuse(*prepared(toy(tmp_path, *ALONE))[:4]) == "continued"
