"""The seeds of `seeds: auto`: what is said after each look, and what a run that fails means for further ones."""

import random
from pathlib import Path

import pytest

from fluxflow_exp.study.course import Course
from fluxflow_exp.study.runs import Run
from fluxflow_exp.study.seeds import _told, carry_out
from fluxflow_exp.study.sequential import decide
from tests.study.test_filling import train
from tests.study.test_runs import course, plant
from tests.study.test_spec import FIVE

WIDE, DEEP = [1.0, 1.01, 0.99], [0.0, 0.012, 0.024]


def test_each_arm_has_a_line_and_what_the_budget_pays_for_is_said() -> None:
    first, *lines = _told(decide({"wide": WIDE, "deep": DEEP}, smallest_difference=0.02), 3, 17).splitlines()
    assert first == "After 3 seeds:"
    assert [line.split()[:2] for line in lines] == [["wide", "is"], ["deep", "is"], ["about", "13"], ["the", "budget"]]
    assert lines[-1] == "  the budget pays for 20"
    one = _told(decide({"deep": DEEP}, smallest_difference=0.02), 3, None)
    assert one.startswith("After 3 seeds: deep is undecided")
    assert one.endswith("; about 11 seeds in all")
    assert "\n" not in one
    assert _told(decide({"wide": WIDE}, seeds_left=2), 3, 2) == "After 3 seeds: every arm is decided"


def auto(folder: Path, fails: tuple[str, int]) -> Course:
    """A study whose arms differ by chance, and in which one run fails."""
    text = FIVE.replace("stage.steps.vae.batch_size=32", "log_every=7")
    text = text.replace("stage.steps.vae.batch_size=8", "model.activation=silu, third: model.activation=relu")
    made = course(folder, text, "seeds=auto", "budget.runs=14")

    def trained(runs: list[Run], metrics: list[str]) -> list[Run]:
        for run in runs:
            if (run.arm, run.seed) == fails:
                run.folder.path.mkdir(parents=True)
                plant(run, done=False)
                run.folder.record_failure("planted")
                made.failed.append(run)
            else:
                train(run, 20.0 + random.Random(f"{run.arm} {run.seed}").random())
        return runs

    made.train = trained  # type: ignore[method-assign]
    return made


def seeds_of(runs: list[Run]) -> dict[str, int]:
    return {arm: sum(run.arm == arm for run in runs) for arm in ("large", "small", "third")}


@pytest.mark.parametrize("seed", [0, 1])
def test_an_arm_that_fails_gets_no_further_seed_and_the_others_go_on(tmp_path: Path, seed: int) -> None:
    made = auto(tmp_path, ("small", seed))
    assert seeds_of(carry_out(made)) == {"large": 5, "small": 3, "third": 5}  # 14 runs hold no further pair
    assert made.stopped == "the budget pays for no further seed; undecided: third"


def test_no_seed_follows_a_failure_of_the_reference(tmp_path: Path) -> None:
    made = auto(tmp_path, ("large", 2))
    assert seeds_of(carry_out(made)) == {"large": 3, "small": 3, "third": 3}
    assert made.stopped == "a run of large failed, and it is the reference"
