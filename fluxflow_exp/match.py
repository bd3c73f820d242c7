"""`python -m fluxflow_exp.match OVERRIDES… --like KEY=VALUE --axis AXIS`: a model as large as another one.

A comparison of two choices says little when one of them is larger, or does more work. The widths of the first model
are changed until it equals the second, the reference, on one axis: the matched parts together on `params`, the whole
update of the step on the others.
"""

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fluxflow_exp.config import UserError, resolve
from fluxflow_exp.console import fail
from fluxflow_exp.overrides import compose_config, did_you_mean, override_problems

TOLERANCES = {"params": 0.01, "flops": 0.02, "memory": 0.02, "time": 0.02}
DEEPER = (0, -1, 1, -2, 2)  # blocks a stage, in the order in which they are tried


@dataclass(frozen=True)
class Asked:
    overrides: list[str]
    like: list[str]
    axis: str
    step: str | None
    config_dir: str | None
    measured: bool
    updates: int

    @property
    def reference(self) -> list[str]:
        """The reference's overrides: those shared by both, with `like` in place of what it names."""
        named = {_key(each) for each in self.like}
        return [*(each for each in self.overrides if _key(each) not in named), *self.like]


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    asked = Asked(
        options.overrides, options.like, options.axis, options.step, options.config_dir, options.measured,
        options.updates,
    )  # fmt: skip
    try:
        problems = _problems(asked)
        if problems:
            raise UserError(*problems)
        from fluxflow_exp import match_report

        found = match(asked)
        name = options.name or "_".join(
            [found["candidate"]["model"], found["candidate"]["activation"], asked.axis]
        )
        path = match_report.write_model(options.out, name, asked, found)
    except UserError as error:
        fail([str(problem) for problem in error.args])
        return 2
    print(match_report.table(found))
    print(match_report.commands(path, name, asked, found))
    if options.json:
        from fluxflow_exp import files

        files.write_json(options.json, {**found, "file": str(path)})
    return 0 if abs(found["difference"]) <= found["tolerance"] else 1


def match(asked: Asked) -> dict[str, Any]:
    """The figures of both models, the differences, and the `changes` that make the candidate equal on the axis."""
    from fluxflow_exp import match_axes, plan
    from fluxflow_exp.config import typed
    from fluxflow_exp.match_widths import model_of

    def subject(overrides: list[str]) -> tuple[match_axes.Subject, Any]:
        values = _resolved(overrides, asked.config_dir)
        name = _step(values, asked.step)
        parts = plan.trained_parts(typed(values).stage.steps[name])
        return match_axes.Subject(values, name), model_of(values, parts)

    reference, theirs = subject(asked.reference)
    candidate, mine = subject(asked.overrides)
    print(f"MATCH: {_named(mine.nodes)} like {_named(theirs.nodes)}, on {asked.axis}, step {candidate.step}", flush=True)
    target = match_axes.on_axis(reference, asked.axis)(theirs)
    print(f"  reference: {_shown(target, asked.axis)}", flush=True)
    changes = _found(candidate, mine, asked.axis, target)
    matched = mine.changed(changes)
    print("  counting all axes of both", flush=True)
    sides = [match_axes.figures(reference, theirs), match_axes.figures(candidate, matched)]
    reached = match_axes.on_axis(candidate, asked.axis)(matched)
    return {
        "axis": asked.axis,
        "tolerance": TOLERANCES[asked.axis],
        "target": target,
        "reached": reached,
        "difference": reached / target - 1,
        "step": candidate.step,
        "batch_size": candidate.length.batch_size,
        "hardware": candidate.values["hardware"]["name"],
        "reference": {**_identity(theirs.nodes), "overrides": asked.reference, **_facts(sides[0])},
        "candidate": {**_identity(mine.nodes), "overrides": asked.overrides, **_facts(sides[1])},
        "changes": changes,
    }


def _found(subject: Any, model: Any, axis: str, target: float) -> dict[str, Any]:
    """Key → value that brings `model` to `target`; with another depth only where widths do not reach it."""
    from fluxflow_exp import match_axes
    from fluxflow_exp.match_search import Widths, search

    cost, tolerance = match_axes.on_axis(subject, axis), TOLERANCES[axis]
    best: tuple[float, dict[str, Any]] | None = None
    for blocks in DEEPER:
        depth = model.deeper(blocks) if blocks else {}
        if blocks and not depth:
            continue
        base = model.changed(depth)

        def tried(widths: Widths, base: Any = base) -> float:
            value: float = cost(base.changed(base.changes(widths)))
            print(f"  {_words(widths)}: {_shown(value, axis)} ({value / target - 1:+.2%})", flush=True)
            return value

        found = search(base.space(), tried, target, tolerance=tolerance)
        if best is None or abs(found.off(target)) < best[0]:
            best = abs(found.off(target)), {**depth, **base.changes(found.widths)}
        if best[0] <= tolerance:
            break
        print(f"  widths reach {found.off(target):+.2%} and no nearer: another depth", flush=True)
    assert best
    return best[1]


def _problems(asked: Asked) -> list[str]:
    problems = override_problems(asked.overrides, config_dir=asked.config_dir)
    problems = problems or override_problems(asked.reference, config_dir=asked.config_dir)
    if asked.measured and asked.axis != "time":
        problems.append(f"--measured is for --axis time, not {asked.axis}")
    return problems


def _resolved(overrides: list[str], config_dir: str | None) -> dict[str, Any]:
    from fluxflow_exp import preflight

    values = resolve(compose_config([*overrides, "tracking=off"], config_dir=config_dir))
    problems = preflight.problems(values, here=False)
    if problems:
        raise UserError(*problems)
    return values


def _step(values: dict[str, Any], asked: str | None) -> str:
    known = list(values["stage"]["steps"])
    if asked is None and len(known) > 1:
        raise UserError(f"stage={values['stage']['name']} has several steps: name one with --step {'|'.join(known)}")
    if asked is not None and asked not in known:
        raise UserError(
            f"--step {asked}: there is no such step{did_you_mean(asked, known) or '.'} The steps: {', '.join(known)}"
        )
    return asked or known[0]


def _identity(nodes: dict[str, Any]) -> dict[str, Any]:
    return {"model": nodes["name"], "activation": nodes["activation"]}


def _facts(figures: Any) -> dict[str, Any]:
    return {**asdict(figures), "parameters": figures.parameters}


def _named(nodes: dict[str, Any]) -> str:
    return f"{nodes['name']} with {nodes['activation']}"


def _words(widths: Any) -> str:
    return "widths " + " ".join(map(str, widths))


def _shown(value: float, axis: str) -> str:
    units = {
        "params": f"{value:,.0f} parameters",
        "flops": f"{value:.6g} TFLOP an update",
        "memory": f"{value:.4g} GiB",
        "time": f"{1000 * value:.4g} ms an update",
    }
    return units[axis]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.match",
        description="Change a model's widths until it equals another one on one axis, print all axes of both, and "
        "write the model as a file for --config-dir. No GPU is needed, but for --measured.",
        epilog="Exit code: 0 matched, 1 the nearest is farther off than the tolerance (params 1 %%, others 2 %%), 2 the "
        "configuration is wrong. Example: python -m fluxflow_exp.match model=compact model.activation=silu "
        "--like model.activation=bezier --axis params stage=vae data.img_size=128 hardware=h200",
    )
    parser.add_argument("overrides", nargs="*", help="of the model that is changed, shared by the reference")
    parser.add_argument(
        "--like", action="append", required=True, metavar="KEY=VALUE",
        help="what the reference has instead; may be repeated",
    )  # fmt: skip
    parser.add_argument("--axis", required=True, choices=list(TOLERANCES), help="what is to be equal")
    parser.add_argument("--step", metavar="NAME", help="step of the stage, where there are several")
    parser.add_argument("--measured", action="store_true", help="with --axis time: timed on this machine")
    parser.add_argument("--updates", type=int, default=20, help="updates that --measured times (default 20)")
    parser.add_argument("--out", type=Path, default=Path("matched"), metavar="FOLDER", help="default: matched/")
    parser.add_argument("--name", help="of the model; default: MODEL_ACTIVATION_AXIS")
    parser.add_argument("--config-dir", help="the folder of your own groups")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
