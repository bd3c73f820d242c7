"""`python -m fluxflow_exp.study FILE_OR_NAME OVERRIDES…`: a question, from its file to its answer.

The same command continues after any kill, and leaves out what is done.
"""

import argparse
import shlex
import sys
from typing import TYPE_CHECKING

from fluxflow_exp.errors import UserError
from fluxflow_exp.run import failures
from fluxflow_exp.study.spec import Spec, SpecError, load, shipped

if TYPE_CHECKING:
    from fluxflow_exp.study.course import Course
    from fluxflow_exp.study.runs import Run


@failures.command
def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(sys.argv[1:] if arguments is None else arguments)
    spec = _loaded(options)
    from fluxflow_exp.study import launch
    from fluxflow_exp.study.course import Course

    groups = ["--config-dir", options.config_dir] if options.config_dir else []
    words = [options.study, *options.overrides, *groups]  # without what trains nothing
    given = shlex.join(["python", "-m", "fluxflow_exp.study", *words])
    if options.status:
        from fluxflow_exp.study import status

        return status.show(Course(spec, search=False, trains=False), given)
    if options.so_far:
        return _say_so_far(Course(spec, search=False, trains=False), words, f"To go on: {given}")
    print(f"STUDY: {spec.question}\n  {spec.source}; folder {spec.folder}", flush=True)
    lacking = launch.lacking(spec) if options.plan or not spec.folder.exists() else None  # what is done needs none
    if lacking and not options.plan:
        raise UserError(lacking)
    course = Course(spec, trains=not options.plan)
    course.predict()
    if options.plan:
        _say_unused(course)
        if lacking:
            print(f"Note: {lacking}")
        return 0
    return _carry_out(course, words)


def _loaded(options: argparse.Namespace) -> Spec:
    """The study that is named. UserError: all that is wrong with it, with its arms, too."""
    try:
        return load(options.study, options.overrides, config_dir=options.config_dir)
    except SpecError as error:
        if error.spec is None:
            raise
        from fluxflow_exp.study import arms

        spec, trains = error.spec, not (options.plan or options.status)
        more = arms.arm_problems(spec, arms.first_runs(spec, {}), trains=trains)
        raise UserError(*error.args, *(f"{spec.source}: {line}" for line in more)) from None


def _carry_out(course: "Course", words: list[str]) -> int:
    """Train, measure, answer; 1: not all runs are done."""
    from fluxflow_exp.study import seeds

    _say_unused(course)
    course.choose_rates()
    return _answer(course, seeds.carry_out(course), words, "The same command goes on")


def _say_so_far(course: "Course", words: list[str], further: str) -> int:
    """Measure what is done, and answer by that; nothing is trained."""
    from fluxflow_exp.run import states
    from fluxflow_exp.study import measure, status

    runs = status.answering(course)
    if not runs:
        print(f"{status.UNCHOSEN}. {further}")
        return 1
    course.recall()
    measure.measure(course.spec, [run for run in runs if run.entry().state == states.DONE], course.spec.outcome)
    return _answer(course, runs, words, further)


def _answer(course: "Course", runs: "list[Run]", words: list[str], further: str) -> int:
    """Write the answer by what is done of `runs`; 1: there is none, or `further` is what to do."""
    from fluxflow_exp.study import filling, status

    found = filling.answer(course, runs, words)
    if found is None:
        print(f"No run is done, so there is no answer. {further}")
        return 1
    print("\n".join(filling.write(found, course)))
    lost = status.failed(course.lost(runs))
    if found.unfinished or lost:
        print(f"{found.unfinished}. {further}" if found.unfinished else lost)
    return 1 if found.unfinished or lost else 0


def _say_unused(course: "Course") -> None:
    for line in course.unused(course.spec.seeds or list(range(1000))):
        print(f"Note: {line}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.study",
        description="Answer a question by runs: check all of its arms, say what they cost, make them equal, train, "
        "measure, compare, and write study.json, study.html and study.md. The same command continues after a kill.",
        epilog=f"Shipped studies: {', '.join(shipped())}. Words that name a key of the study (seeds=5, where=slurm, "
        "budget.gpu_hours=2) change it; all others are overrides of every arm. Exit code: 0 answered, 1 not all runs "
        "are done or one failed, 2 something is wrong, and what. docs/how-to/studies.md shows a study of one's own.",
    )
    parser.add_argument("study", metavar="FILE_OR_NAME", help="a study's YAML, a folder with study.yaml, or a name")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="of the study, or of all its arms"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--plan", action="store_true", help="check everything, say what it will cost, train nothing")
    instead.add_argument("--status", action="store_true", help="what has become of its runs; starts nothing")
    instead.add_argument("--so-far", action="store_true", help="measure what is done, answer by that, train nothing")
    parser.add_argument("--config-dir", metavar="FOLDER", help="the folder of your own groups")
    return parser
