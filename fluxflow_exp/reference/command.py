"""`python -m fluxflow_exp.reference make RUN RUN RUN --of TEXT --out FILE` and `… check RUN`.

A run that is similar to reference runs (same model, losses, size and kind of data; numbers of pictures within a
factor of two) is told where it lies beside them, on the console and on its card. `check` tells it of any run folder,
and of one that is not similar, why; `make` writes the curves of one's own runs, for evaluation.reference=FILE.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fluxflow_exp.errors import few
from fluxflow_exp.run import failures, lookup
from fluxflow_exp.run.metric_log import read_rows

SHOWN = 3  # reasons why a run is not similar


@failures.command
def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return _make(options) if options.command == "make" else _check(options)


def _parser() -> argparse.ArgumentParser:
    rest = (__doc__ or "").partition("\n\n")[2]
    parser = argparse.ArgumentParser(prog="python -m fluxflow_exp.reference", description=rest)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="write the curves of runs that differ in their seed alone")
    make.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folders, three or more, or folders of them (a sweep)"
    )
    make.add_argument("--of", required=True, metavar="TEXT", help='the data in words, e.g. "emoji in eight styles"')
    make.add_argument("--out", required=True, type=Path, metavar="FILE", help="JSON file to write")
    check = commands.add_parser("check", help="tell where a run lies beside reference runs, or why that is not known")
    check.add_argument("run", type=Path, metavar="RUN", help="run folder")
    check.add_argument(
        "--reference", type=Path, metavar="FILE", help="of one's own; by default the run's, or the shipped ones"
    )
    return parser


def _make(options: argparse.Namespace) -> int:
    from fluxflow_exp.reference import curves
    from fluxflow_exp.reference.make import reference

    made = reference(lookup.several(options.runs), of=options.of)
    with failures.output("--out FILE writes it elsewhere"):
        curves.write(options.out, made)
    for name, step in made.steps.items():
        points = {metric: len(each) for metric, each in step.metrics.items()}
        print(
            f"{name}: "
            + ", ".join(f"{metric} at {count} update{'s' if count > 1 else ''}" for metric, count in points.items())
        )
    size = options.out.stat().st_size / 1024
    print(f"written to {options.out} ({size:.0f} KiB); evaluation.reference={options.out} compares with it")
    return 0


def _check(options: argparse.Namespace) -> int:
    from fluxflow_exp.reference import alike, standing

    folder = lookup.one(options.run)
    values, record = folder.frozen(), folder.read_record()
    if options.reference:
        values["evaluation"] = {**values.get("evaluation", {}), "reference": str(options.reference)}
    known = standing.known(values)
    for step in values["stage"]["steps"]:
        found = standing.of(values, record, step)
        rows = read_rows(folder.metrics(step))
        if found:
            print(found.summary(rows) or f"Step {step}: nothing to compare with {found.reference.of} yet")
            continue
        print(f"Step {step}: similar to no reference")
        for each in known:
            if step in each.steps and step in record.get("planned", {}):
                reasons = alike.unlike(alike.facts(values, record, step), each.steps[step])
                print(f"  {each.of}: {few(reasons, SHOWN, joint='; ')}")
    return 0
