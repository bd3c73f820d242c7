"""What has become of a study's runs, by arm and seed."""

from fluxflow_exp.errors import UserError
from fluxflow_exp.run import states
from fluxflow_exp.study import answer, cost, form
from fluxflow_exp.study.boundary import FIRST
from fluxflow_exp.study.course import Course
from fluxflow_exp.study.runs import Run

PAGE = "study.html"


def show(course: Course) -> int:
    """Print a line for each run; 0: all are done and the answer is written, 1: not."""
    spec = course.spec
    rows = [(f"{run.arm} {_rate(course, run)}seed {run.seed}", run.entry()) for run in course.trials()]
    runs: list[Run] = []
    try:
        if spec.learning_rates:
            course.rates = course.chosen([run for run in course.trials() if run.entry().state == states.DONE])
        seeds = spec.seeds if spec.seeds is not None else _seeds_there(course)
        runs = [run for run in course.runs(seeds) if spec.seeds is not None or run.seed < FIRST or run.folder.exists()]
        rows += [(f"{run.arm} seed {run.seed}", run.entry()) for run in runs]
    except UserError:
        print("The learning rates are not chosen yet")
    print(f"{spec.question}\n{spec.folder}\n{states.table(rows, noun='run')}")
    hours = sum(cost.spent(run) for run in [*course.trials(), *runs])
    print(f"  {cost.shown_hours(hours, course.unit)} so far")
    for line in course.unused(spec.seeds if spec.seeds is not None else list(range(1000))):
        print(f"  Note: {line}")
    done = bool(runs) and all(entry.state == states.DONE for _, entry in rows)
    problem = _unanswered(course, runs, done=done)
    print(f"  {problem or f'Answered: {spec.folder / PAGE}'}")
    return 1 if problem else 0


def _unanswered(course: Course, runs: list[Run], *, done: bool) -> str | None:
    """Why the page is no answer; None: it is one. DamagedError: study.json is not whole."""
    folder = course.spec.folder
    page, numbers = folder / PAGE, folder / "study.json"
    there = answer.read(numbers) if page.exists() and numbers.exists() else None
    if there and done and not form.is_present(there, course, runs):
        return (
            f"The answer on the page {page} is of an earlier form of this study; the study's command answers this one"
        )
    if not there or not done or there.unfinished:
        return "Not answered yet; the study's command goes on"
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
