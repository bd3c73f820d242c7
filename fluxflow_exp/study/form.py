"""Whether an answer is of the study as its file now says it, or of an earlier form."""

from dataclasses import asdict

from fluxflow_exp.study.answer import StudyAnswer
from fluxflow_exp.study.course import Course
from fluxflow_exp.study.kept import digest_of
from fluxflow_exp.study.runs import Run
from fluxflow_exp.study.spec import Spec
from fluxflow_exp.sweep.jobs import identifying


def digest(spec: Spec) -> str:
    """16 hex digits for what a study asks; where its runs stand and are made, and how they are logged, is left out."""
    rates = spec.learning_rates
    auto = spec.seeds is None
    return digest_of([
        spec.question, [[arm, sorted(identifying(words))] for arm, words in spec.arms.items()],
        sorted(identifying(spec.base)), spec.outcome, spec.equal, None if auto else sorted(spec.seeds or []),
        [spec.gpu_hours, spec.runs] if auto else None,  # of fixed seeds a budget changes no value
        spec.smallest_difference, asdict(rates) if rates else None, spec.evaluate,
    ])  # fmt: skip


def is_present(answer: StudyAnswer, course: Course, runs: list[Run]) -> bool:
    """Whether `answer` is of this study, all of whose `runs` are done."""
    if answer.form:
        return answer.form == digest(course.spec)
    spec = course.spec  # an older version kept no digest
    if answer.base and sorted(identifying(answer.base)) != sorted(identifying(spec.base)):
        return False
    return [each.metric for each in answer.outcomes] == spec.outcome and _arms(answer) == {
        arm: (
            [*words, *course.changes.get(arm, [])],
            sorted(run.seed for run in runs if run.arm == arm),
            course.rates[arm].chosen if arm in course.rates else None,
        )
        for arm, words in spec.arms.items()
    }


def _arms(answer: StudyAnswer) -> dict[str, tuple[list[str], list[int], float | None]]:
    return {
        arm.name: (arm.overrides, arm.seeds, arm.learning_rate.chosen if arm.learning_rate else None)
        for arm in answer.arms
    }
