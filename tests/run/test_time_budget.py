"""Minutes in the place of epochs: how many updates they hold, what is recorded of it, and what is said of it."""

from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp.config.compose import typed
from fluxflow_exp.config.overrides import override_problems
from fluxflow_exp.config.schema import Evaluation, Samples
from fluxflow_exp.errors import UserError
from fluxflow_exp.preflight import check
from fluxflow_exp.run import time_budget
from fluxflow_exp.run.identity import identity_differences, identity_digest, is_extension
from fluxflow_exp.run.save_interval import SaveClock
from fluxflow_exp.run.time_budget import Costs, most
from fluxflow_exp.step_length import Length
from tests.conftest import toy

COSTS = Costs(
    {(): 1.0, ("gan",): 3.0},
    first_evaluation=20.0,
    evaluation=10.0,
    last_evaluation=30.0,
    pictures=5.0,
    save=2.0,
    ending=7.0,
)
NEVER = SaveClock(every_minutes=None, every_updates=None)


def length(updates: int) -> Length:
    return Length(updates=updates, updates_per_epoch=10, batch_size=8, micro_batch=8)


@pytest.mark.parametrize(
    ("updates", "evaluations", "pictures"),
    [(9, 30, 5), (10, 30, 5), (11, 20 + 30, 10), (31, 20 + 10 + 10 + 30, 20)],
)
def test_a_step_takes_its_updates_and_all_that_is_due_between_and_after_them(
    updates: int, evaluations: int, pictures: int
) -> None:
    found = COSTS.of_step(1.5, length(updates), Samples(), Evaluation(), NEVER)
    assert found == pytest.approx(1.5 * updates + evaluations + pictures + 2 + 7)


@pytest.mark.parametrize(("updates", "times"), [(1000, 10), (1999, 10), (2000, 10), (2001, 11), (4000, 20)])
def test_a_step_of_many_short_epochs_is_looked_at_as_often_as_auto_says(updates: int, times: int) -> None:
    found = COSTS.of_step(1.0, length(updates), Samples(), Evaluation(), NEVER)
    assert found == pytest.approx(updates + 20 + (times - 2) * 10 + 30 + times * 5 + 2 + 7)


def test_pictures_and_saves_of_every_manner_count_and_what_is_off_does_not() -> None:
    off = Samples(every_epochs=None), Evaluation(every_epochs=None)
    assert COSTS.of_step(1.0, length(30), *off, NEVER) == 30 + 2 + 7
    by_count = SaveClock(every_minutes="auto", every_updates=4)
    assert COSTS.of_step(1.0, length(30), *off, by_count) == 30 + 2 + 7 + 7 * 2
    by_time = SaveClock(every_minutes=0.2, every_updates=None)  # 39 s hold three
    assert COSTS.of_step(1.0, length(30), *off, by_time) == 30 + 2 + 7 + 3 * 2
    drawn = Samples(every_epochs=None, every_updates=7, samples_per_checkpoint=2)
    assert COSTS.of_step(1.0, length(30), drawn, off[1], by_count) == 30 + 2 + 7 + 7 * 2 + (4 + 3) * 5


def test_kinds_of_updates_count_by_their_shares_and_an_unknown_one_as_the_longest() -> None:
    assert COSTS.of_update({(): 0.75, ("gan",): 0.25}) == 1.5
    assert COSTS.of_update({(): 0.5, ("gan", "r1"): 0.5}) == 2.0


@pytest.mark.parametrize(("seconds", "updates"), [(2.9, 0), (3.0, 1), (1000.0, 499), (1002.5, 500)])
def test_the_most_updates_that_fit_are_found(seconds: float, updates: int) -> None:
    assert most(seconds, lambda count: 1 + 2 * count) == updates


def test_a_run_shares_what_is_left_by_epochs_and_a_step_has_its_own(tmp_path: Path) -> None:
    epochs = ["stage.steps.vae.n_epochs=3", "stage.steps.vae_gan.n_epochs=1", "stage.steps.flow.n_epochs=4"]
    config = typed(toy(tmp_path, "minutes=8", *epochs))
    assert [time_budget.asked(config, name) for name in config.stage.steps] == [3, 1, 4]
    assert time_budget.seconds_left(config, "vae", run=0, begun=0) == 180
    assert time_budget.seconds_left(config, "vae_gan", run=200, begun=9) == (480 - 200) / 5
    assert time_budget.seconds_left(config, "flow", run=400, begun=9) == 80
    config = typed(toy(tmp_path, "stage.steps.flow.minutes=2"))
    assert [time_budget.is_timed(config, name) for name in config.stage.steps] == [False, False, True]
    assert time_budget.seconds_left(config, "flow", run=400, begun=9) == 111


def test_time_that_interruptions_have_cost_is_not_taken_from_later_steps() -> None:
    undisturbed = {"restarts": 0, "wall_seconds": 75.0, "steps": {}}
    assert time_budget.spent(undisturbed, ["vae"], 5.0) == 75.0
    known = {"vae": {"updates": 9, "seconds": 40.0}}
    killed: dict[str, Any] = {
        "restarts": 2,
        "wall_seconds": 400.0,
        "steps": {"gan": {"seconds": 8.0}},
        "minutes": known,
    }
    assert time_budget.spent(killed, ["vae", "gan"], 5.0) == 40 + 8 + 5
    killed["steps"]["vae"] = {"seconds": 11.0, "ended_by": "val_l1 below 0.1"}
    assert time_budget.spent(killed, ["vae", "gan"], 5.0) == 11 + 8 + 5


def test_a_length_that_is_given_twice_is_one_error(tmp_path: Path) -> None:
    twice = ["stage.steps.flow.minutes=3", "stage.steps.flow.n_epochs=5"]
    (line,) = override_problems(twice)
    assert line == "stage.steps.flow.minutes=3 and stage.steps.flow.n_epochs=5 both say when the step ends: " + (
        "give one of them"
    )
    assert override_problems(["minutes=3", "stage.steps.flow.n_epochs=5"]) == []  # there it is a share
    assert override_problems([*twice, "stage.steps.flow.minutes=null"]) == []  # the last of two words holds
    assert len(override_problems(["stage.steps.flow.minutes=null", *twice])) == 1
    (line,) = check.problems(toy(tmp_path, "minutes=3", "stage.steps.flow.max_updates=5"))
    assert line.startswith("minutes and stage.steps.flow.max_updates=5 both say when the step ends")
    (line,) = check.problems(toy(tmp_path, "minutes=3", "stage.steps.flow.minutes=5"))
    assert line == "minutes=3 is for the whole run, and stage.steps.flow.minutes=5 for a step: give one of them"
    assert check.problems(toy(tmp_path, "minutes=3")) == []


def test_what_nobody_asked_for_is_no_difference_and_more_minutes_are_an_extension(tmp_path: Path) -> None:
    plain = toy(tmp_path)
    assert "minutes" not in plain
    assert all("minutes" not in step for step in plain["stage"]["steps"].values())
    run, more = toy(tmp_path, "minutes=3"), toy(tmp_path, "minutes=4", "resume=extend")
    assert identity_differences(more, run) == {"minutes": (3.0, 4.0)}
    assert is_extension(more, run)
    assert not is_extension(toy(tmp_path, "stage.steps.vae.minutes=4", "resume=extend"), plain)
    assert is_extension(toy(tmp_path, "stage.steps.flow.minutes=4", "resume=extend"), plain)
    assert identity_digest(more) == identity_digest(run) == identity_digest(plain)


def record(**minutes: Any) -> dict[str, Any]:
    return {"minutes": minutes, "steps": {}, "wall_seconds": 100.0}


def test_the_recorded_number_holds_and_more_minutes_are_as_many_updates_more(tmp_path: Path) -> None:
    values = toy(tmp_path, "stage.steps.flow.minutes=2")
    lengths = dict.fromkeys(values["stage"]["steps"], length(20))
    known = record(flow={"updates": 70, "seconds": 110.0})
    found = time_budget.fixed(known, values, lengths)
    assert [each.updates for each in found.values()] == [20, 20, 70]
    assert time_budget.fixed(known, toy(tmp_path), lengths) == lengths  # epochs again
    assert time_budget.is_open(record(), values, "flow")
    assert not time_budget.is_open(known, values, "flow")
    assert not time_budget.is_open(record(), values, "vae")
    time_budget.stretch(known, toy(tmp_path, "stage.steps.flow.minutes=3"), values)
    assert known["minutes"] == {"flow": {"updates": int(70 * 170 / 110), "seconds": 170.0}}
    time_budget.stretch(known, toy(tmp_path), toy(tmp_path, "stage.steps.flow.minutes=3"))
    assert "minutes" not in known


def test_a_finished_step_of_epochs_can_be_given_minutes_but_no_fewer_than_it_took(tmp_path: Path) -> None:
    done = {**record(), "steps": {"flow": {"updates": 30, "seconds": 60.0}}}
    time_budget.stretch(done, toy(tmp_path, "stage.steps.flow.minutes=3"), toy(tmp_path))
    assert done["minutes"] == {"flow": {"updates": 90, "seconds": 180.0}}
    done = {**record(), "steps": {"flow": {"updates": 30, "seconds": 60.0}}}
    time_budget.stretch(done, toy(tmp_path, "minutes=3"), toy(tmp_path))  # of which others took 40 s
    assert done["minutes"] == {"flow": {"updates": 70, "seconds": 140.0}}
    with pytest.raises(UserError, match="ask for more minutes"):
        time_budget.stretch(
            record(flow={"updates": 30, "seconds": 60.0}), toy(tmp_path, "minutes=1"), toy(tmp_path, "minutes=3")
        )


def test_a_run_of_minutes_can_be_written_as_one_of_updates(tmp_path: Path) -> None:
    values = toy(tmp_path, "stage.steps.flow.minutes=2")
    found = time_budget.settled(values, record(flow={"updates": 70, "seconds": 110.0}))
    assert check.problems(found) == []
    step = typed(found).stage.steps["flow"]
    assert Length.of(step, 10, 8).updates == 70
    assert time_budget.settled(values, record()) == values


def test_shares_that_do_not_hold_what_their_steps_do_are_told_with_what_would(tmp_path: Path) -> None:
    epochs = ["stage.steps.vae.n_epochs=3", "stage.steps.vae_gan.n_epochs=1", "stage.steps.flow.n_epochs=4"]
    config = typed(toy(tmp_path, "minutes=2", *epochs))
    found = time_budget.shares(config, {"vae": 8.0, "vae_gan": 20.0, "flow": 44.0}, 40.0)
    assert [each.seconds for each in found] == [30, 10, 40]
    assert [each.lacks for each in found] == [False, True, True]
    assert time_budget.too_short(config, found, {"vae_gan": 0.25}).splitlines() == [
        "minutes=2 is too short for all steps, after the 40 s that it took to begin:",
        "    vae_gan gets 10 s, and takes 20 s with one update of 0.25 s, timing, evaluation, pictures and saves",
        "    flow gets 40 s, and takes 44 s with one update, timing, evaluation, pictures and saves",
        "  Ask for minutes=4.2 or more, share it otherwise (stage.steps.STEP.n_epochs), or leave out evaluation and "
        "pictures",  # vae_gan's 20 s are an eighth of 160 s: 200 s, and a quarter
    ]
    assert "at least 8 s of vae's 30 s, 20 s of vae_gan's 10 s, 44 s of flow's 40 s" in time_budget.told(found)
    config = typed(toy(tmp_path, "stage.steps.vae.minutes=1", "stage.steps.flow.minutes=0.5"))
    found = time_budget.shares(config, {"vae": 8.0, "flow": 44.0}, 40.0)
    said = [
        "stage.steps.flow.minutes=0.5 is too short:",
        "    flow gets 30 s, and takes 44 s with one update, timing, evaluation, pictures and saves",
        "  Ask for stage.steps.flow.minutes=0.92 or more",
    ]
    assert time_budget.too_short(config, found, {}).splitlines() == said
    said[-1] = said[-1].replace("stage", "resume=extend stage")
    assert time_budget.too_short(config, found, {}, stays=True).splitlines() == said
    early = time_budget.shares(config, {"vae": 80.0}, 40.0)  # no run is extended by an earlier step
    assert time_budget.too_short(config, early, {}, stays=True).splitlines()[-1] == (
        "  Ask for stage.steps.vae.minutes=1.7 or more, under another name=… or with resume=fresh"
    )


def test_a_step_that_begins_has_a_share_of_what_is_left(tmp_path: Path) -> None:
    epochs = ["stage.steps.vae.n_epochs=3", "stage.steps.vae_gan.n_epochs=1", "stage.steps.flow.n_epochs=4"]
    config = typed(toy(tmp_path, "minutes=2", *epochs))
    seconds = time_budget.seconds_left(config, "vae_gan", run=90.0, begun=0.0)
    found = time_budget.share_of(config, "vae_gan", seconds, 10.0)
    assert (found.seconds, found.part, found.taken) == (6.0, 0.2, 90.0)
    assert time_budget.too_short(config, [found], {"vae_gan": 2.0}, stays=True).splitlines() == [
        "minutes=2 is too short for step vae_gan, after the 90 s that were before it:",
        "    vae_gan gets 6 s, and takes 10 s with one update of 2 s, timing, evaluation, pictures and saves",
        "  Ask for resume=extend minutes=3 or more, or leave out evaluation and pictures",  # (90 + 5 · 10) s · 1.25
    ]


def test_the_end_counts_from_the_command_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_budget, "moment", lambda seconds: f"in {seconds:g} s")
    config = typed(toy(tmp_path, "minutes=3"))
    assert time_budget.total(config, dict.fromkeys(config.stage.steps, length(1)), 1, taken=13.0) == (
        "3 min; begun now, it ends at in 167 s"
    )
