"""The answer's sentence in every case: what was shown, what was not, and what is not said."""

from dataclasses import replace
from typing import Any

import pytest

from fluxflow_exp.study import sentences
from fluxflow_exp.study.answer import AT_THE_END, Difference, Failure, LearningRate, PictureRow, Pictures, StudyAnswer
from tests.helpers.answers import difference, made_answer


def said(found: Difference, *, higher: bool = True, smallest: float | None = None) -> str:
    """The first sentence of an answer with this difference."""
    made = made_answer(found)
    first = replace(made.deciding, higher=higher, smallest=smallest)
    return sentences.headline(replace(made, outcomes=[first]))[0]


INTERVAL = "95 % interval 0.20 to 0.80, 3 paired seeds"
SEEN = "one of 0.80 dB would have been seen in four of five tries"
OPEN = "PSNR of bezier less that of silu is +0.20 dB (95 % interval -0.10 to 0.50, 3 paired seeds)"
CASES: dict[str, tuple[Difference, dict[str, Any], str]] = {
    "better": (difference(0.2, 0.8), {}, f"bezier is better than silu: PSNR is 0.50 dB higher ({INTERVAL})."),
    "worse": (difference(-0.8, -0.2), {}, f"bezier is worse than silu: PSNR is 0.50 dB lower ({INTERVAL})."),
    "lower is better": (
        difference(-0.8, -0.2), {"higher": False}, f"bezier is better than silu: PSNR is 0.50 dB lower ({INTERVAL}).",
    ),
    "higher is worse": (
        difference(0.2, 0.8), {"higher": False}, f"bezier is worse than silu: PSNR is 0.50 dB higher ({INTERVAL}).",
    ),
    "nothing": (difference(-0.1, 0.5), {}, f"No difference is shown between bezier and silu: {OPEN}; {SEEN}."),
    "nothing, and a smallest": (
        difference(-0.1, 0.5), {"smallest": 0.3},
        f"No difference is shown between bezier and silu: {OPEN}; {SEEN}, and one of 0.3 dB takes about 12 seeds of "
        "each.",
    ),
    "nothing, of an unknown spread": (
        difference(-0.1, 0.5, detectable=None), {},
        f"No difference is shown between bezier and silu: {OPEN}; the interval leaves room for one of 0.50 dB.",
    ),
    "alike": (
        difference(-0.1, 0.5), {"smallest": 1},
        f"bezier and silu are alike: {OPEN}, and a difference of 1 dB, the smallest worth seeing, is ruled out either "
        "way.",
    ),
    "nothing, of a lower mean": (
        difference(-0.5, 0.1), {},
        "No difference is shown between bezier and silu: PSNR of bezier less that of silu is -0.20 dB (95 % interval "
        f"-0.50 to 0.10, 3 paired seeds); {SEEN}.",
    ),
    "better, and small": (
        difference(0.2, 0.8), {"smallest": 1},
        f"bezier is better than silu, by less than the 1 dB worth seeing: PSNR is 0.50 dB higher ({INTERVAL}).",
    ),
    "worse, and small": (
        difference(-0.8, -0.2), {"smallest": 1},
        f"bezier is worse than silu, by less than the 1 dB worth seeing: PSNR is 0.50 dB lower ({INTERVAL}).",
    ),
    "better, and perhaps more than small": (
        difference(0.2, 0.8), {"smallest": 0.7}, f"bezier is better than silu: PSNR is 0.50 dB higher ({INTERVAL}).",
    ),
    "one seed": (
        difference(None, None, seeds=[1]), {},
        "Too few seeds to judge bezier against silu: PSNR of bezier is 0.50 dB higher (1 paired seed), which may be "
        "chance.",
    ),
    "every seed alike": (
        difference(None, None), {},
        "Nothing can be judged of bezier against silu: PSNR of bezier is 0.50 dB higher with every seed alike "
        "(3 paired seeds).",
    ),
    "equal": (difference(0.0, 0.0), {}, "bezier and silu are equal to the last digit: PSNR at 3 paired seeds."),
    "not paired, corrected": (
        difference(0.2, 0.8, seeds=[3, 4], correction="Holm, 2 pairs"), {},
        "bezier is better than silu: PSNR is 0.50 dB higher (95 % interval 0.20 to 0.80 [Holm, 2 pairs], "
        "4 and 3 seeds, not paired).",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_sentence_is_right_in_every_case(case: str) -> None:
    found, settings, sentence = CASES[case]
    assert said(found, **settings) == sentence


def test_an_interval_that_ends_at_zero_shows_nothing() -> None:
    assert said(difference(0.0, 0.5)).startswith("No difference is shown")


def failed(*, reference: bool) -> StudyAnswer:
    """All three runs of one arm failed: those of the reference, or of bezier."""
    made = made_answer()
    failures = [Failure(seed, "the flow loss was not finite; samples: 4, 7.\nTry a lower rate.") for seed in range(3)]
    lost = 0 if reference else 1
    arms = [replace(arm, seeds=[], failures=failures) if n == lost else arm for n, arm in enumerate(made.arms)]
    values = {name: own for name, own in made.deciding.values.items() if name != arms[lost].name}
    left = [] if reference else made.deciding.differences[1:]
    return replace(made, arms=arms, outcomes=[replace(made.deciding, values=values, differences=left)])


def test_an_arm_that_failed_is_named_with_the_reason() -> None:
    made = failed(reference=False)
    reason = "all 3 of its runs failed (seed 0: the flow loss was not finite)"
    assert sentences.headline(made)[0] == f"bezier has no value of PSNR: {reason}."
    assert sentences.headline(made)[1].startswith("relu is worse than silu")
    assert sentences.verdict(made.deciding, None) == sentences.FAILED


def test_without_the_reference_nothing_is_compared() -> None:
    (sentence,) = sentences.headline(failed(reference=True))
    assert sentence.endswith("and it is the reference: nothing can be compared with it.")
    assert "all 3 of its runs failed" in sentence


def test_runs_that_failed_beside_others_are_told() -> None:
    assert sentences.headline(made_answer())[1].endswith("; 1 of 3 runs of relu failed and is left out.")
    assert any("flatter" in each for each in sentences.limits(made_answer()))


def test_an_answer_that_is_not_finished_says_so_first() -> None:
    first = sentences.headline(made_answer(unfinished="4 of 6 runs are done"))[0]
    assert first == "The study is not finished (4 of 6 runs are done); this is what it says so far."


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"equal": "nothing"}, "Nothing was made equal"),
        ({"equal": "time"}, "the same measured time"),
        ({}, "bezier chose a learning rate; silu, relu did not"),
        ({}, "PSNR decides"),
        (
            {"outcomes": [replace(made_answer().deciding, at=AT_THE_END)]},
            "PSNR: measured at the end of each run, and not",
        ),
        ({}, "Not all runs were made on one kind of machine."),
        ({"arms": [replace(arm, learning_rate=None) for arm in made_answer().arms]}, "No arm chose its learning rate"),
    ],
)
def test_limits_follow_what_was_done(changes: dict[str, Any], part: str) -> None:
    assert any(part in each for each in sentences.limits(made_answer(**changes)))


def test_pictures_say_what_they_are_of() -> None:
    assert sentences.pictured(made_answer()) == ""
    drawn = Pictures(1, {"silu": 2000, "bezier": 2000}, [PictureRow("a ring", {})])
    equal, apart = drawn, replace(drawn, at={"silu": 2000, "bezier": 1500}, differs="samples.steps is not the same")
    assert sentences.pictured(made_answer(pictures=equal)) == (
        "The same prompts and noise in all arms, after update 2,000; the runs of seed 1."
    )
    assert sentences.pictured(made_answer(pictures=apart)) == (
        "The same prompts and noise in all arms, after as many images, at updates 2,000 (silu), 1,500 (bezier); "
        "the runs of seed 1. Beside the models, samples.steps is not the same."
    )


def test_who_chose_the_end_of_the_rates_is_told() -> None:
    tried = {"0.001": 20.0, "0.002": 21.0, "0.004": None}
    rates = {arm: LearningRate(chosen, tried, "val_psnr", "") for arm, chosen in (("a", 0.001), ("b", 0.002))}
    assert sentences.edges(rates) == ["a chose the lowest rate there was: try a lower one, which may suit it better."]
    assert sentences.edges({"b": rates["b"]}) == []
    high = replace(rates["a"], chosen=0.004)
    (said,) = sentences.edges({"c": high, "d": high})
    assert said == "c, d chose the highest rate there was: try a higher one, which may suit them better."


def test_values_have_the_digits_of_the_differences_beside_them() -> None:
    outcome = made_answer(difference(0.004, 0.0314)).deciding
    assert [sentences.level(value, outcome) for value in (18.0, 17.12345, None)] == ["18.000", "17.123", "-"]
    assert sentences.level(18.0, replace(outcome, differences=[difference(None, None)])) == "18"


def test_outcomes_have_the_names_of_the_field() -> None:
    names = [sentences.title(metric) for metric in ("val_psnr", "psnr", "ssim", "fd@3", "retrieval_1@1", "of_my_own")]
    assert names == ["PSNR", "PSNR", "SSIM", "FD at guidance 3", "Retrieval@1 at guidance 1", "of_my_own"]
