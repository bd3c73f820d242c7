"""What has become of a study's runs, by arm and seed."""

from fluxflow_exp.errors import UserError
from fluxflow_exp.run import states
from fluxflow_exp.study import cost
from fluxflow_exp.study.boundary import FIRST
from fluxflow_exp.study.course import Course
from fluxflow_exp.study.runs import Run


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
    page = spec.folder / "study.html"
    said = "Not answered yet; the study's command goes on" if not (done and page.exists()) else f"Answered: {page}"
    print(f"  {said}")
    return 0 if done and page.exists() else 1


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
