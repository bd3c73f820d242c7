"""From run folders, with values of one's choice, to status, costs and answer."""

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fluxflow_exp.compare.differences import Unlike
from fluxflow_exp.errors import UserError
from fluxflow_exp.run.metric_log import MetricLog
from fluxflow_exp.study import answer, command, cost, filling, form, launch, matching, seeds, sentences, status
from fluxflow_exp.study.answer import StudyAnswer
from fluxflow_exp.study.cost import ArmCost
from fluxflow_exp.study.course import Course
from fluxflow_exp.study.kept import Kept
from fluxflow_exp.study.runs import Run
from tests.study.test_runs import course, plant
from tests.study.test_spec import FIVE, study

VALUES = {"large": [20.0, 21.0], "small": [21.0, 23.0]}


def train(run: Run, last: float) -> None:
    """A run that is done, with held-out rows after updates 1 and 2."""
    plant(run)
    log = MetricLog(run.folder.metrics("vae"))
    for update, value in ((1, last - 2), (2, last)):
        log.write("held_out", update=update, epoch=1, batch=update, metrics={"val_psnr": value})


def planted(folder: Path, *words: str, values: dict[str, list[float]] = VALUES) -> tuple[Course, list[Run]]:
    # As many images an update in both arms.
    text = FIVE.replace("stage.steps.vae.batch_size=32", "log_every=7")
    made = course(folder, text.replace("stage.steps.vae.batch_size=8", "model.activation=silu"), *words)
    runs = made.runs([0, 1])
    for run in runs:
        if run.seed < len(values[run.arm]):
            train(run, values[run.arm][run.seed])
    return made, runs


def test_values_of_runs_become_paired_differences(tmp_path: Path) -> None:
    made, runs = planted(tmp_path)
    found = filling.answer(made, runs, ["mine.yaml"])
    assert found
    (outcome,) = found.outcomes
    assert outcome.values == {"large": {0: 20.0, 1: 21.0}, "small": {0: 21.0, 1: 23.0}}
    (difference,) = outcome.differences
    assert (difference.arm, difference.mean, difference.seeds) == ("small", 1.5, [2])
    # Student's quantile of one degree of freedom, 12.706, times 0.7071/sqrt(2)
    assert difference.high == pytest.approx(1.5 + 12.7062 * 0.5, abs=1e-3)
    assert outcome.at == "64 images"
    assert found.unfinished is None
    assert [arm.cost.hours for arm in found.arms] == pytest.approx([0.02, 0.02])
    assert found.curves[0].lines[0].mean == [18.5, 20.5]
    assert found.commands[0] == "python -m fluxflow_exp.study mine.yaml"


def test_a_run_that_is_missing_is_said_and_its_pair_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, runs = planted(tmp_path, values={"large": [20.0, 21.0], "small": [21.0]})
    runs[3].folder.path.mkdir(parents=True)
    plant(runs[3], done=False)
    runs[3].folder.record_failure("planted")
    found = filling.answer(made, runs, ["mine.yaml"])
    assert found
    assert found.unfinished is None  # it failed, which is an answer
    assert found.outcomes[0].differences[0].seeds == [1]
    assert [(each.seed, each.reason) for each in found.arms[1].failures] == [(1, "planted")]
    write(made, runs)
    assert status.show(made) == 1
    said = capsys.readouterr().out
    assert "4 runs: 3 done, 1 failed" in said
    assert "study.html. 1 run failed; the study's command tries it again" in said
    runs[3].folder.failure.unlink()
    found = filling.answer(made, runs, ["mine.yaml"])
    assert found
    assert found.unfinished == "3 of 4 runs are done"


def test_what_is_known_so_far_is_answered_and_nothing_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, runs = planted(tmp_path, "tracking=off", values={"large": [], "small": []})
    words = [str(tmp_path / "mine.yaml"), "tracking=off", f"output_root={tmp_path}"]
    again = f"To go on: python -m fluxflow_exp.study {' '.join(words)}\n"
    assert command.main([*words, "--so-far"]) == 1
    assert f"No run is done, so there is no answer. {again}" in capsys.readouterr().out
    for run, value in zip(runs[:3], (20.0, 21.0, 21.0), strict=True):
        train(run, value)
    made.kept.put("cost small", made.first["small"].values, asdict(ArmCost(0.5, 0.1, 7, 1.0, 1.0)))
    assert command.main([*words, "--so-far"]) == 1
    assert f"3 of 4 runs are done. {again}" in capsys.readouterr().out
    found = answer.read(made.spec.folder / "study.json")
    assert found.outcomes[0].values == {"large": {0: 20.0, 1: 21.0}, "small": {0: 21.0}}
    assert [arm.parameters for arm in found.arms] == [None, 7]
    assert "The study is not finished (3 of 4 runs are done)" in (made.spec.folder / "study.md").read_text()
    assert found.notes == [filling.EARLY]
    assert not runs[3].folder.exists()
    train(runs[3], 23.0)
    assert command.main([*words, "--so-far"]) == 0
    found = answer.read(made.spec.folder / "study.json")
    assert found.unfinished is None
    assert [note.partition(".")[0] for note in found.notes] == ["this study was answered with 1 seed before"]
    assert status.show(made) == 0


def test_so_far_needs_learning_rates_and_any_spelling_of_it_is_left_out_of_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    course(tmp_path)
    words = [str(tmp_path / "mine.yaml"), "learning_rates=[1e-3,2e-3]", f"output_root={tmp_path}"]
    assert command.main([*words, "--so"]) == 1
    again = shlex.join(["python", "-m", "fluxflow_exp.study", *words])
    assert capsys.readouterr().out == f"The learning rates are not chosen yet. To go on: {again}\n"


def test_the_status_names_each_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, _ = planted(tmp_path, values={"large": [20.0, 21.0], "small": [21.0]})
    assert status.show(made) == 1
    said = capsys.readouterr().out
    assert "large seed 1  done" in said
    assert "small seed 1  new" in said
    assert "4 runs: 3 done, 1 new" in said
    assert " so far" in said
    assert "Not answered yet; to go on: the study's command" in said


def test_the_status_of_a_study_that_was_not_begun_says_so_and_what_begins_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = course(tmp_path)
    assert status.show(made, "python -m fluxflow_exp.study mine.yaml") == 1
    said = capsys.readouterr().out
    assert "Nothing was run yet; to begin: python -m fluxflow_exp.study mine.yaml (with --plan" in said
    assert " so far" not in said
    run = made.runs([0])[0]
    run.folder.path.mkdir(parents=True)
    plant(run, done=False)
    held = run.folder
    held.lock()
    assert status.show(course(tmp_path)) == 1
    held.unlock()
    assert "Not answered yet: 1 run under way" in capsys.readouterr().out


def test_an_arm_that_was_decided_before_the_others_is_not_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, runs = planted(tmp_path, "seeds=auto", "budget.runs=99")
    more = [*made.runs([2]), *made.runs([3], ["large"])]
    for run in more:
        train(run, 20.0)
    write(made, [*runs, *more])
    assert status.show(made) == 0
    said = capsys.readouterr().out
    assert "7 runs: 7 done" in said
    assert "Answered" in said


def write(made: Course, runs: list[Run], **changes: Any) -> StudyAnswer:
    found = filling.answer(made, runs, ["mine.yaml"])
    assert found
    found = replace(found, **changes)
    answer.write(found, made.spec.folder / "study.json")
    (made.spec.folder / "study.html").touch()
    return found


def test_a_page_that_answers_an_earlier_form_is_no_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, runs = planted(tmp_path)
    now = made.spec
    found = write(made, runs)
    assert status.show(made) == 0
    made.spec = replace(now, seeds=[0])
    assert status.show(made) == 1
    assert "study.html is of an earlier form of this study; the study's command answers" in capsys.readouterr().out
    made.spec = now
    write(made, runs, unfinished="3 of 4 runs are done")
    assert status.show(made) == 1
    older = replace(found, form="")
    assert form.is_present(older, made, runs)
    assert not form.is_present(older, made, made.runs([0]))
    other = {"base": [*now.base, "log_every=3"], "arms": {**now.arms, "small": ["log_every=3"]}, "outcome": ["val_l1"]}
    for key, value in other.items():
        made.spec = replace(now, **{key: value})
        assert not form.is_present(older, made, runs), key
        assert not form.is_present(found, made, runs), key
    made.spec = replace(now, base=[*now.base, "tracking=off"])  # where runs are logged changes no answer
    assert form.is_present(older, made, runs)
    assert form.is_present(found, made, runs)


def test_all_that_decides_an_answer_tells_its_form(tmp_path: Path) -> None:
    def digest(*words: str) -> str:
        return form.digest(study(tmp_path, FIVE, *words))

    for same in ("where=slurm", "budget.runs=99", "output_root=elsewhere", "seeds=[1,0]", "hardware.num_workers=1"):
        assert digest(same) == digest()
    changed = (
        "question=Why?", "arms.small=log_every=3", "data.n_images=32", "outcome=val_l1", "equal=flops", "seeds=3",
        "smallest_difference=1", "learning_rates=[1e-3,2e-3]", "evaluate=--images=8",
    )  # fmt: skip
    assert len({digest(), *map(digest, changed)}) == 1 + len(changed)
    assert digest("seeds=auto", "budget.runs=9") != digest("seeds=auto", "budget.runs=10")


def test_a_sweep_is_what_a_user_would_type(tmp_path: Path) -> None:
    made = course(tmp_path, FIVE, "where=slurm_local")
    words = launch.command(made.spec, made.runs([0, 1], ["small"]))
    assert words[:4] == ["python", "-m", "fluxflow_exp", "-m"]
    assert words[-4:] == ["name=small", f"output_root={tmp_path / 'mine'}", "seed=0,1", "hydra/launcher=slurm_local"]


def test_hours_that_do_not_hold_all_runs_are_refused(tmp_path: Path) -> None:
    made = course(tmp_path, FIVE, "budget.gpu_hours=1")
    costs = {"large": ArmCost(0.5, 0.1, 1, 1.0, 1.0), "small": ArmCost(0.5, 0.1, 1, 1.0, 1.0)}
    with pytest.raises(UserError) as told:
        cost.check_budget(made.spec, costs, made.counts(), cost.GPU_HOURS)
    assert "budget.gpu_hours=1, and 4 runs take about 2 GPU hours" in str(told.value)
    unknown = {arm: ArmCost(None, 0.1, 1, 1.0, 1.0) for arm in costs}
    with pytest.raises(UserError, match=r"budget\.gpu_hours cannot be held"):
        cost.check_budget(made.spec, unknown, made.counts(), cost.GPU_HOURS)


def test_runs_that_are_done_are_said_to_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, runs = planted(tmp_path)
    monkeypatch.setattr(cost, "predict", lambda run: ArmCost(0.5, 0.1, 1, 1.0, 1.0))
    made.predict()
    done = sum(run.entry().state == "done" for run in runs)
    assert done
    assert f"Done already, and left out: {done} of them" in capsys.readouterr().out


def test_the_budget_left_is_counted_in_seeds_of_the_arms_that_are_open(tmp_path: Path) -> None:
    made, runs = planted(tmp_path, "budget.runs=9", "budget.gpu_hours=0.3")
    # 4 of 9 runs are there, so that 5 are left; of 0.3 hours 0.04 are spent, and a seed of both arms takes 0.02.
    assert seeds._seeds_left(made, runs, ["large", "small"]) == 2
    made.spec = replace(made.spec, runs=None, gpu_hours=0.109)
    assert seeds._seeds_left(made, runs, ["large", "small"]) == 3


def test_changes_of_a_match_become_overrides_and_what_is_not_equal_is_said() -> None:
    found = [
        {"changes": {"model.compressor.widths": [8, 16]}, "axis": "params", "step": "vae", "difference": 0.04,
         "tolerance": 0.01},
        {"changes": {"model.flow_processor.mlp_ratio": 3.5}, "axis": "params", "step": "flow", "difference": 0.001,
         "tolerance": 0.01},
    ]  # fmt: skip
    assert matching.overrides(found) == ["model.compressor.widths=[8,16]", "+model.flow_processor.mlp_ratio=3.5"]
    assert matching.notes({"small": found}) == [
        "small is not equal in parameters in step vae: it has +4.0 %, the nearest that was found"
    ]


def test_each_arm_takes_the_rate_of_its_best_trial_and_one_that_failed_is_none(tmp_path: Path) -> None:
    made = course(tmp_path, FIVE, "learning_rates={rates: [1e-3, 2e-3, 4e-3], seeds: [7, 8]}")
    values = {"large": {1e-3: 20.0, 2e-3: 22.0, 4e-3: 21.0}, "small": {1e-3: 23.0, 2e-3: 22.0}}
    done = []
    for run in made.trials():
        rate = float(run.rate.partition("=")[2])
        if rate in values[run.arm]:
            train(run, values[run.arm][rate] + run.seed)
            done.append(run)
    found = made.chosen(done)
    assert (found["large"].chosen, found["small"].chosen) == (2e-3, 1e-3)
    assert found["small"].tried == {"0.001": 30.5, "0.002": 29.5, "0.004": None}
    made.rates = found
    assert "optimizer.lr=0.002" in made.runs([0], ["large"])[0].words
    assert made.unused([0]) == []


def test_an_arm_of_which_no_rate_gives_a_value_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    made = course(tmp_path, FIVE, "learning_rates={rates: [1e-3, 2e-3], seeds: [7]}", "seeds=2")
    for run in made.trials():
        if run.arm == "large":
            train(run, 20.0)
        else:
            run.folder.path.mkdir(parents=True)
            plant(run, done=False)
            run.folder.record_failure("the loss 'l1' is not finite; samples: 4")
    made.train = lambda runs, metrics: [run for run in runs if run.entry().state == "done"]  # type: ignore[method-assign]
    made.choose_rates()
    assert list(made.rates) == ["large"]
    runs = made.runs([0, 1])
    assert {run.arm for run in runs} == {"large"}
    for run in runs:
        train(run, 21.0)
    found = filling.answer(made, runs, ["mine.yaml"])
    assert found
    assert (found.unfinished, found.outcomes[0].differences) == (None, [])
    assert [each.seed for each in found.arms[1].failures] == [7, 7]
    (said,) = sentences.headline(found)
    assert said.startswith("small has no value of PSNR: both of its runs failed (seed 7: the loss 'l1' is not finite)")
    assert not any("did not" in line for line in sentences.limits(found))
    assert len(made.lost(runs)) == 2


def test_seeds_that_were_added_after_an_answer_are_told(tmp_path: Path) -> None:
    def looked(*words: str, note: bool = True) -> list[str]:
        made: Any = SimpleNamespace(spec=study(tmp_path, FIVE, *words), kept=Kept(tmp_path))
        said = filling._looked_before(made)
        if note:
            filling._note_look(made)
        return [each.partition(".")[0] for each in said]

    assert looked() == looked() == looked("seeds=1") == []
    assert looked("seeds=2") == ["this study was answered with 1 seed before"]
    assert looked("seeds=auto", "budget.runs=9") == []
    assert looked("seeds=5") == ["this study was answered with 1 seed, 2 seeds, seeds: auto before"]
    made: Any = SimpleNamespace(spec=study(tmp_path, FIVE, "seeds=4"), kept=Kept(tmp_path))
    filling._note_look(made, 3)  # with three of four seeds
    filling._note_look(made, 0)  # with none
    assert looked("seeds=9", note=False) == [
        "this study was answered with 1 seed, 2 seeds, 3 seeds, 5 seeds, seeds: auto before"
    ]
    assert looked("seeds=5", "arms.small=data.n_images=32") == looked("seeds=5", "outcome=val_l1") == []


def test_runs_that_were_not_made_alike_are_counted_by_arm() -> None:
    names = {"ab" * 20: ["o/s/silu/seed=0-1", "o/s/silu/seed=1-1"], "H200": ["o/s/relu/seed=0-1"]}
    assert filling._by_arm(Unlike("code", "commit (run.json)", names)) == "abababab in 2 of silu; H200 in 1 of relu"
