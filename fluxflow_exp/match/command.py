"""`python -m fluxflow_exp.match OVERRIDES… --like KEY=VALUE --axis AXIS`: a model as large as another one.

A comparison of two choices says little when one of them is larger, or does more work. The widths of the first model
are changed until it equals the second, the reference, on one axis: the matched parts together on `params`, the whole
update of the step on the others.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxflow_exp.config.overrides import values_of
from fluxflow_exp.errors import UserError, did_you_mean
from fluxflow_exp.match.arguments import Asked, parser
from fluxflow_exp.preflight.idle import idle_problems
from fluxflow_exp.run import failures

if TYPE_CHECKING:
    from fluxflow_exp.match.axes import Figures, Subject
    from fluxflow_exp.match.timing import Round
    from fluxflow_exp.match.widths import Model

UPDATES = 50  # that are timed


@failures.command
def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_intermixed_args(arguments)
    asked = Asked(
        options.overrides, options.like, options.axis, options.step, options.config_dir, options.measured,
        UPDATES if options.updates is None else options.updates,
    )  # fmt: skip
    problems = [f"--updates must be at least 10, not {asked.updates}"] if asked.updates < 10 else []
    if asked.measured and asked.axis != "time":
        problems.append(f"--measured is for --axis time, not {asked.axis}")
    problems += idle_problems({"--updates": options.updates}, acts=options.measured, needs="--measured")
    if options.name is not None and Path(options.name).name != options.name:
        problems.append(f"--name {options.name!r}: choose a word, which becomes the choice model=…; --out has places")
    if options.out.exists() and not options.out.is_dir():
        problems.append(f"--out {options.out}: this is a file, and a folder is wanted")
    if problems:
        raise UserError(*problems)
    from fluxflow_exp.match import output

    found = match(asked)
    name = options.name or "_".join([found["candidate"]["model"], found["candidate"]["activation"], asked.axis])
    path = output.write_model(options.out, name, asked, found)
    print(output.table(found))
    print(output.commands(path, name, asked, found))
    if options.json:
        from fluxflow_exp import files

        files.write_json(options.json, {**found, "file": str(path)})
    return 0 if output.matched(found) else 1


def match(asked: Asked) -> dict[str, Any]:
    """The figures of both models, the differences, and the `changes` that make the candidate equal on the axis."""
    from fluxflow_exp.match import axes, fit

    reference, theirs = _subject(asked.reference, asked)
    candidate, mine = _subject(asked.overrides, asked)
    print(f"MATCH: {_named(mine)} like {_named(theirs)}, by {asked.axis}, step {candidate.step}", flush=True)
    print("  counting the work of the reference, predicting its memory and time …", flush=True)
    first = axes.figures(reference, theirs)
    target = first.on(asked.axis)
    rounds: list[Round] = []
    if asked.measured:
        fitted, rounds = fit.fit_time(reference, theirs, candidate, mine, updates=asked.updates)
        target, reached = 1.0, rounds[-1].timing.ratio
    elif target is None:
        raise UserError(
            f"--axis time: hardware={candidate.values['hardware']['name']} does not say how fast its card is: choose "
            "a card, e.g. hardware=h200, or time it here with --measured"
        )
    else:
        print(f"  reference: {fit.shown(target, asked.axis)}", flush=True)
        fitted = fit.fit(candidate, mine, asked.axis, target)
        reached = fitted.cost
    print("  the same of the candidate …", flush=True)
    second = axes.figures(candidate, mine.changed(fitted.changes))
    return {
        "axis": asked.axis,
        "tolerance": fit.TOLERANCES[asked.axis],
        "target": target,
        "reached": reached,
        "difference": reached / target - 1,
        "step": candidate.step,
        "batch_size": candidate.length.batch_size,
        "hardware": candidate.values["hardware"]["name"],
        "reference": _side(theirs, asked.reference, first),
        "candidate": _side(mine, asked.overrides, second),
        "changes": fitted.changes,
        "measured": [asdict(each) for each in rounds],  # the nearest last
    }


def _subject(overrides: list[str], asked: Asked) -> "tuple[Subject, Model]":
    from fluxflow_exp.config.compose import typed
    from fluxflow_exp.match.axes import Subject
    from fluxflow_exp.match.widths import model_of
    from fluxflow_exp.preflight import check
    from fluxflow_exp.step_plan import trained_parts

    values = values_of([*overrides, "tracking=off"], config_dir=asked.config_dir)
    problems = check.problems(values, here=asked.measured)
    if problems:
        raise UserError(*problems)
    name = _step(values, asked.step)
    config = typed(values)
    return Subject(values, name), model_of(values, trained_parts(config.stage.steps[name], config.model))


def _step(values: dict[str, Any], asked: str | None) -> str:
    known = list(values["stage"]["steps"])
    if asked is None and len(known) > 1:
        raise UserError(f"stage={values['stage']['name']} has several steps: name one with --step {'|'.join(known)}")
    if asked is not None and asked not in known:
        raise UserError(
            f"--step {asked}: there is no such step{did_you_mean(asked, known) or '.'} The steps: {', '.join(known)}"
        )
    return asked or known[0]


def _side(model: "Model", overrides: list[str], figures: "Figures") -> dict[str, Any]:
    names = {"model": model.nodes["name"], "activation": model.nodes["activation"], "overrides": overrides}
    return {**names, **asdict(figures), "parameters": figures.parameters}


def _named(model: "Model") -> str:
    return f"{model.nodes['name']} with {model.nodes['activation']}"
