"""The answer of a study, filled from its runs."""

import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from fluxflow_exp.compare.differences import Unlike, differences
from fluxflow_exp.config.compose import typed
from fluxflow_exp.machine import clock
from fluxflow_exp.run import failures, states
from fluxflow_exp.study import cost, form, launch, outcome, output, pictures, sentences, wandb
from fluxflow_exp.study.answer import Arm, Cost, Failure, StudyAnswer
from fluxflow_exp.study.arms import in_rows
from fluxflow_exp.study.course import Course
from fluxflow_exp.study.fields import AUTO
from fluxflow_exp.study.runs import Run

EARLY = (
    "its number of seeds was fixed before, and not all of its runs are done: these intervals are too narrow for one "
    "who ends it here because of what they say; seeds: auto allows for looks"
)
DIGEST = re.compile(r"(?<![0-9a-f])([0-9a-f]{8})[0-9a-f]{8,}")  # recognised by its first digits


def answer(course: Course, runs: list[Run], words: list[str]) -> StudyAnswer | None:
    """What is known by now; None: not even one run of an arm is measured. `words`: of the study's own command."""
    spec = course.spec
    finished = course.finished(runs)
    if not finished:
        return None
    outcomes = [outcome.outcome(spec, metric, finished) for metric in spec.outcome]
    drawn = [outcome.drawn(metric, finished) for metric in spec.outcome if in_rows(metric)]
    done = sum(map(len, finished.values()))
    ended = all(run.entry().state in (states.DONE, states.FAILED) for run in runs)  # a failure is an answer, too
    early = not ended and spec.seeds is not None
    hours = cost.spent(spec, [*course.trials(), *runs])
    return StudyAnswer(
        name=spec.name,
        question=spec.question,
        equal=spec.equal,
        arms=[
            _arm(course, name, {run: hours[run] for run in hours if run.arm == name}, finished) for name in spec.arms
        ],
        outcomes=outcomes,
        commands=_commands(course, runs, words),
        curves=[each for each in drawn if each],
        pictures=pictures.gather(
            {arm: {seed: run.folder for seed, run in each.items()} for arm, each in finished.items()}, spec.folder
        ),
        notes=[*course.notes, *_made_apart(finished), *_looked_before(course), *([EARLY] if early else [])],
        stopped=course.stopped,
        unfinished=None if ended else f"{done} of {len(runs)} runs are done",
        base=spec.base,
        date=clock.date(),
        form=form.digest(spec),
    )


def _arm(course: Course, name: str, runs: dict[Run, float], finished: outcome.Runs) -> Arm:
    """`runs` of the arm, with the hours of each."""
    spec, known = course.spec, course.costs.get(name)
    seeds = sorted(finished.get(name, {}))
    judging = [run for run in runs if run.seed not in _trial_seeds(course)]
    failures = [Failure(run.seed, run.entry().note) for run in course.lost(judging) if run.arm == name]
    hardware = course.first[name].values["hardware"]
    price = hardware["price_per_hour"]
    return Arm(
        name=name,
        overrides=[*spec.arms[name], *course.changes.get(name, [])],
        seeds=seeds,
        cost=Cost(
            hours=sum(runs.values()),
            unit=course.unit,
            runs=sum(run.folder.exists() for run in runs),
            price=None if price is None else sum(runs.values()) * price,
            tflop=known.tflop if known else None,
            memory_gib=known.memory_gib if known and course.unit == "GPU hours" else None,
        ),
        failures=failures,
        parameters=known.parameters if known else None,
        learning_rate=course.rates.get(name),
    )


def _made_apart(finished: outcome.Runs) -> list[str]:
    """What was not alike when the runs were made, beside what the arms say: code, data, machines."""
    runs = [run for members in finished.values() for run in members.values()]
    found = differences(runs, "name")
    apart = [each for each in found.unlike if each.key.endswith("(run.json)")]
    apart += [found.machines] if found.machines else []
    return [f"not all runs were made alike: {each.key.removesuffix(' (run.json)')}: {_by_arm(each)}" for each in apart]


def _by_arm(unlike: Unlike) -> str:
    """Each value with the number of runs of each arm that have it."""
    said = []
    for value, names in unlike.values.items():
        counts = Counter(Path(name).parent.name for name in names)
        short = DIGEST.sub(r"\1", value)
        said.append(f"{short} in {', '.join(f'{count} of {arm}' for arm, count in counts.items())}")
    return "; ".join(said)


def _looked_before(course: Course) -> list[str]:
    """That this study was answered with fewer seeds, or with as many as it took, before this number was given."""
    spec = course.spec
    if spec.seeds is None:
        return []
    before = [count for count in course.kept.get(*_looks(course)) or [] if count == AUTO or count < len(spec.seeds)]
    if not before:
        return []
    said = ", ".join("seeds: auto" if count == AUTO else _seeds(count) for count in sorted(before, key=str))
    return [
        f"this study was answered with {said} before. If its seeds were chosen by what that said, these intervals are "
        "too narrow; seeds: auto allows for looks"
    ]


def _looks(course: Course) -> tuple[str, list[Any]]:
    """Under what the looks at a study are kept: those at other arms or by another metric are no looks at it."""
    spec = course.spec
    return "looks", [spec.outcome[0], spec.base, spec.arms]


def _note_look(course: Course, seen: int | None = None) -> None:
    """Keep that there was an answer; `seen`: with so many seeds, of a study that is not finished."""
    fixed = course.spec.seeds
    look = AUTO if fixed is None else len(fixed) if seen is None else seen
    before = course.kept.get(*_looks(course)) or []
    if look and look not in before:
        course.kept.put(*_looks(course), [*before, look])


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _trial_seeds(course: Course) -> list[int]:
    rates = course.spec.learning_rates
    return rates.seeds if rates else []


def _commands(course: Course, runs: list[Run], words: list[str]) -> list[str]:
    """The study's own command, and the sweep of each arm."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in [*course.trials(), *runs]:
        groups.setdefault(run.words, []).append(run)
    sweeps = [shlex.join(launch.command(course.spec, each)) for each in groups.values()]
    return [shlex.join(["python", "-m", "fluxflow_exp.study", *words]), *sweeps]


def write(found: StudyAnswer, course: Course) -> list[str]:
    """Write study.json, the page and the Markdown, and send them to W&B; lines that say what came out and where."""
    folder = course.spec.folder
    with failures.output("output_root=… writes the study elsewhere"):
        files = output.write(found, folder)
        _note_look(course, max(len(arm.seeds) for arm in found.arms[1:]) if found.unfinished else None)
    lines = ["", *sentences.headline(found), *map(str, files)]
    sent = wandb.send(found, folder, typed(course.first[found.reference.name].values).tracking)
    return [*lines, f"W&B: {sent}"] if sent else lines
