"""The seeds of a study: a number that was fixed before, or one more after each look until enough is known."""

from fluxflow_exp.study import cost, outcome
from fluxflow_exp.study.boundary import FIRST
from fluxflow_exp.study.course import Course
from fluxflow_exp.study.runs import Run
from fluxflow_exp.study.sequential import Decision, decide, judge


def carry_out(course: Course) -> list[Run]:
    """Train and measure all runs that answer the study; they are returned, also those that have failed."""
    spec = course.spec
    if spec.seeds is not None:
        runs = course.runs(spec.seeds)
        course.train(runs, spec.outcome)
        return runs
    return _until_known(course)


def _until_known(course: Course) -> list[Run]:
    """Seeds 0, 1, 2, then one after another for the arms that are still open and of which no run has failed."""
    spec, seeds = course.spec, list(range(FIRST))
    runs = course.runs(seeds)
    course.train(runs, spec.outcome)
    while True:
        failed = course.failing(runs)
        if spec.reference in failed:
            course.stopped = f"a run of {spec.reference} failed, and it is the reference"
            return runs
        found = outcome.outcome(spec, spec.outcome[0], course.finished(runs))
        differences = outcome.differences(spec, found.values)
        judged = judge(differences, smallest_difference=spec.smallest_difference)
        further = [arm for arm, each in judged.items() if each.verdict == "open" and arm not in failed]
        left = _seeds_left(course, runs, [spec.reference, *further])
        decision = decide(differences, smallest_difference=spec.smallest_difference, seeds_left=left, failed=failed)
        print(f"\n{_told(decision, len(seeds), left)}", flush=True)
        if decision.stop:
            course.stopped = decision.reason
            return runs
        seeds.append(seeds[-1] + 1)
        more = course.runs(seeds[-1:], [spec.reference, *decision.undecided])
        course.train(more, spec.outcome)
        runs += more


def _told(decision: Decision, count: int, left: int | None) -> str:
    """What `count` seeds say, and how many there are to be; a line an arm where there are several."""
    several = "\n" in decision.reason
    said = f"After {count} seeds:{'' if several else ' '}{decision.reason}"
    if decision.stop:
        return said
    ends = [f"about {decision.needed} seeds in all"] if decision.needed else []
    ends += [f"the budget pays for {count + left}"] if left is not None else []
    return said + "".join(("\n  " if several else "; ") + end for end in ends)


def _seeds_left(course: Course, runs: list[Run], arms: list[str]) -> int | None:
    """How many further seeds of `arms` the budget pays for, at the pace of the runs so far; None: any number."""
    spec, known = course.spec, [*course.trials(), *runs]
    left: list[int] = []
    if spec.runs is not None:
        left.append((spec.runs - len(known)) // len(arms))
    if spec.gpu_hours is not None:
        hours = cost.spent(spec, known)
        taken = sum(hours.values())
        mean = {arm: [hours[run] for run in runs if run.arm == arm] for arm in arms}
        a_seed = sum(sum(each) / len(each) for each in mean.values())
        left.append(int((spec.gpu_hours - taken) / a_seed) if a_seed else 0)
    return max(min(left), 0) if left else None
