"""Minutes that do not hold all steps of a run are refused before the first one trains."""

import re
from pathlib import Path

import pytest

from fluxflow_exp import pipeline
from fluxflow_exp.errors import UserError
from fluxflow_exp.monitor.start_up import StartUp
from fluxflow_exp.trainers import pace
from tests.conftest import toy
from tests.trainers.test_pace import recorded
from tests.trainers.test_pace import slow as slow

SELDOM = ["checkpoint.every_updates=50", "log_every=50"]


@pytest.mark.slow
def test_a_run_is_refused_before_it_trains_and_the_minutes_that_it_names_do(
    tmp_path: Path, slow: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="minutes=2 is too short for all steps") as refused:
        pipeline.run(toy(tmp_path, "minutes=2", *SELDOM))
    assert capsys.readouterr().out == "Looking whether the minutes hold what each step does beside its updates …\n"
    assert [path.name for path in tmp_path.iterdir()] == [".quickstart.lock"]  # nothing that another number would meet
    enough = re.search(r"Ask for minutes=([\d.]+) or more", str(refused.value))
    assert enough
    slow[0] = 0.0
    pipeline.run(toy(tmp_path, f"minutes={enough[1]}", *SELDOM))
    assert 60 * float(enough[1]) * 0.9 <= slow[0] <= 60 * float(enough[1]) * 1.01
    assert min(recorded(tmp_path / "quickstart").values()) >= 1
    assert "Minutes: timing, evaluation, pictures and saves take at least " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("key", ["minutes", "stage.steps.vae.minutes"])
def test_one_step_is_refused_as_several_are_and_leaves_its_name_to_the_minutes_that_do(
    tmp_path: Path, slow: list[float], capsys: pytest.CaptureFixture[str], key: str
) -> None:
    alone = ["~stage.steps.vae_gan", "~stage.steps.flow", *SELDOM]
    slow[0] = -100.0
    began = StartUp()
    slow[0] = 0.0  # the run's time has been over for long
    with pytest.raises(UserError, match=rf"^{key}=0.5 is too short") as refused:
        pipeline.run(toy(tmp_path, *alone, f"{key}=0.5"), start_up=began)
    said = capsys.readouterr().out
    assert "PIPELINE STEP" not in said
    assert "fit into -" not in said
    assert re.search(r"\n    vae gets (0|30) s, and takes \d+ s with one update of 2 s, timing, ", str(refused.value))
    assert [path.name for path in tmp_path.iterdir()] == [".quickstart.lock"]
    enough = re.search(rf"\n  Ask for {key}=([\d.]+) or more", str(refused.value))
    assert enough
    slow[0] = 0.0
    pipeline.run(toy(tmp_path, *alone, f"{key}={enough[1]}"), start_up=began)
    assert recorded(tmp_path / "quickstart")["vae"] >= 1


@pytest.mark.usefixtures("slow")
def test_a_later_steps_own_minutes_are_looked_at_before_the_first_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "updates_within", lambda *_, **__: pytest.fail("it trains"))
    with pytest.raises(UserError, match=r"flow gets 6 s, and takes .*\n  Ask for stage.steps.flow.minutes="):
        pipeline.run(toy(tmp_path, "~stage.steps.vae_gan", "stage.steps.vae.minutes=5", "stage.steps.flow.minutes=0.1"))


@pytest.mark.usefixtures("slow")
def test_what_was_compiled_to_look_is_kept_for_the_command_with_more_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    class Kept:
        def load(self, step: str) -> str:
            called.append(f"load {step}")
            return ""

        def save(self, step: str, seconds: float) -> str:
            called.append(f"save {step}")
            return ""

    monkeypatch.setattr(pipeline, "compiled_code", lambda *_: Kept())
    with pytest.raises(UserError, match="too short for all steps"):
        pipeline.run(toy(tmp_path, "~stage.steps.vae_gan", "minutes=0.1"))
    assert called == ["load vae", "save vae", "load flow", "save flow"]


def test_a_step_that_finds_no_time_behind_a_trained_one_is_continued_with_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That folder holds what was trained: the same name takes more minutes only as an extension."""
    found = iter([(4, 0.01, 1.0), (0, 1.0, 1000.0)])
    monkeypatch.setattr(pace, "updates_within", lambda *_, **__: next(found))
    with pytest.raises(UserError, match=r"is too short for step flow, .*(?s:.*)Ask for resume=extend minutes="):
        pipeline.run(toy(tmp_path, "~stage.steps.vae_gan", "minutes=8"))


def test_a_run_that_goes_on_keeps_its_folder(tmp_path: Path, slow: list[float]) -> None:
    """Of a sweep's job, the launcher has made it."""
    from fluxflow_exp.run import opening
    from fluxflow_exp.run.folder import RunFolder

    values = toy(tmp_path, "~stage.steps.vae_gan", "minutes=0.1")
    opening.create(RunFolder(tmp_path / "quickstart"), values, [])
    with pytest.raises(UserError, match="too short for all steps"):
        pipeline.run(values)
    assert RunFolder(tmp_path / "quickstart").exists()
