"""What has become of a study's runs, by arm and seed."""

from fluxflow_exp.errors import counted
from fluxflow_exp.run import states
from fluxflow_exp.study import answer, cost, form
from fluxflow_exp.study.boundary import FIRST
from fluxflow_exp.study.course import Course
from fluxflow_exp.study.runs import Run

PAGE = "study.html"
UNANSWERED = "Not answered yet"
UNCHOSEN = "The learning rates are not chosen yet"
ENDED = {states.DONE, states.FAILED}
UNDER_WAY = {states.RUNNING, states.QUEUED}
COMMAND = "the study's command"


def show(course: Course, command: str = COMMAND) -> int:
    """Print a line for each run; 0: all are done and the answer is written, 1: not, or one failed.

    `command`: what to type, to begin or to go on.
    """
    spec = course.spec
    rows = [(f"{run.arm} {_rate(course, run)}seed {run.seed}", run.entry()) for run in course.trials()]
    runs = answering(course)
    rows += [(f"{run.arm} seed {run.seed}", run.entry()) for run in runs]
    if not runs:
        print(UNCHOSEN)
    print(f"{spec.question}\n{spec.folder}\n{states.table(rows, noun='run')}")
    begun = {entry.state for _, entry in rows} - {states.NEW}
    if begun:
        hours = sum(cost.spent(spec, [*course.trials(), *runs]).values())
        print(f"  {cost.shown_hours(hours, course.unit)} so far")
    for line in course.unused(spec.seeds if spec.seeds is not None else list(range(1000))):
        print(f"  Note: {line}")
    ended = bool(runs) and all(entry.state in ENDED for _, entry in rows)
    problem = _unanswered(course, runs, ended=ended)
    if problem == UNANSWERED:
        under_way = sum(entry.state in UNDER_WAY for _, entry in rows)
        problem = _what_next(command, begun=bool(begun), under_way=under_way)
    lost = failed(course.lost(runs))
    print(f"  {problem or f'Answered: {spec.folder / PAGE}'}{f'. {lost}' if lost and not problem else ''}")
    return 1 if problem or lost else 0


def answering(course: Course) -> list[Run]:
    """The runs that answer, done or not; none as long as learning rates are not chosen."""
    spec = course.spec
    if spec.learning_rates:
        trials = [(run, run.entry().state) for run in course.trials()]
        course.rates = course.chosen([run for run, state in trials if state == states.DONE])
        if not {state for _, state in trials} <= ENDED or spec.reference not in course.rates:
            return []
    if spec.seeds is not None:
        return course.runs(spec.seeds)
    return [run for run in course.runs(_seeds_there(course)) if run.seed < FIRST or run.folder.exists()]


def _what_next(command: str, *, begun: bool, under_way: int) -> str:
    """Of a study without an answer: how far it is, and what to do."""
    if under_way:
        return f"{UNANSWERED}: {counted(under_way, 'run')} under way"
    if begun:
        return f"{UNANSWERED}; to go on: {command}"
    return f"Nothing was run yet; to begin: {command} (with --plan it only says what that costs)"


def failed(runs: list[Run]) -> str:
    """What is said of failed runs; nothing of none."""
    again = "it" if len(runs) == 1 else "them"
    return f"{counted(len(runs), 'run')} failed; the study's command tries {again} again" if runs else ""


def _unanswered(course: Course, runs: list[Run], *, ended: bool) -> str | None:
    """Why the page is no answer; None: it is one. DamagedError: study.json is not whole."""
    folder = course.spec.folder
    page, numbers = folder / PAGE, folder / "study.json"
    there = answer.read(numbers) if page.exists() and numbers.exists() else None
    if there and ended and not form.is_present(there, course, runs):
        return (
            f"The answer on the page {page} is of an earlier form of this study; the study's command answers this one"
        )
    if not there or not ended or there.unfinished:
        return UNANSWERED
    return None


def _rate(course: Course, run: Run) -> str:
    rates = course.spec.learning_rates
    assert rates
    return next((word for word in run.words if word.startswith(f"{rates.key}=")), "") + " "


def _seeds_there(course: Course) -> list[int]:
    """Of `seeds: auto`: those that the reference has begun, and the three that it begins with."""
    seed = FIRST
    while course.runs([seed], [course.spec.reference])[0].folder.exists():
        seed += 1
    return list(range(seed))
