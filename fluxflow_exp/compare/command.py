"""`python -m fluxflow_exp.compare OUT… --by KEY --metric METRIC`: whether a choice pays, at equal budget, over seeds.

Runs that differ in anything else are refused: a difference of means says nothing about `--by` then.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from fluxflow_exp import files
from fluxflow_exp.compare import metrics, output
from fluxflow_exp.compare.curves import BUDGETS, TIMED, Curve, band, check_budget, equal_budget, further, met, read
from fluxflow_exp.compare.differences import Found, differences
from fluxflow_exp.compare.groups import group, key_of
from fluxflow_exp.compare.pairs import Comparison, Group, Question, pairs
from fluxflow_exp.compare.runs import SHOWN, Run, find, listed
from fluxflow_exp.config import published
from fluxflow_exp.errors import UserError, did_you_mean
from fluxflow_exp.monitor.metrics import higher_is_better
from fluxflow_exp.run import failures

KINDS = ("data", "code", "config")


def compare(
    runs: list[Run],
    question: Question,
    *,
    reference: str | None = None,
    at: float | None = None,
    allow: Collection[str] = (),
) -> Comparison:
    """Hold groups of `runs` against each other. UserError: all the reasons why that would mislead.

    `reference`: the group, or its value, that others are compared with; `at`: the budget, by default the largest that
    all runs reached; `allow`: kinds of differences (data, code, config) that are put up with.
    """
    by = key_of(runs, question.by)
    groups = _referred(group(runs, by), reference)
    metrics.check_metric(runs, question.metric)
    found = differences(runs, by)
    if found.machines and question.budget in TIMED:
        found.unlike.append(found.machines)
    unrecorded = _said(lambda: check_budget(runs, question.budget))
    problems = unrecorded + _said(lambda: metrics.check_evaluated(runs, question.metric))
    curves: dict[str, Curve] = {}
    for run in runs if not unrecorded else []:
        problems += _said(partial(_read, run, question, curves))
    target: list[float] = []
    if len(curves) == len(runs):
        unfinished = [] if at is not None else _unfinished(runs, curves, question.budget)
        problems = (unfinished or _said(lambda: target.append(equal_budget(curves, question.budget, at=at)))) + problems
    unlike = [each for each in found.unlike if each.kind not in allow]
    problems += [
        f"{each}. Only {question.by} may differ; --allow {each.kind} compares all the same" for each in unlike[:SHOWN]
    ]
    if len(unlike) > SHOWN:
        problems.append(f"{len(unlike) - SHOWN} further keys differ")
    if problems:
        raise UserError(*problems)
    return _made(groups, curves, target[0], question, found)


def _made(
    groups: dict[str, list[Run]], curves: dict[str, Curve], at: float, question: Question, found: Found
) -> Comparison:
    made = [
        Group(
            name,
            members,
            [curves[run.name].at(at) for run in members],
            [curves[run.name].budget[-1] for run in members],
            band([curves[run.name] for run in members], at),
        )
        for name, members in groups.items()
    ]
    held = pairs(made, question)
    judged = sum(each.difference.half_width is not None for each in held)
    return Comparison(question, at, made, held, found, _notes(made, at, question, found, judged), curves)


def _referred(groups: dict[str, list[Run]], reference: str | None) -> dict[str, list[Run]]:
    """The groups, the reference first."""
    if reference is None:
        return groups
    found = [name for name in groups if reference in (name, name.partition("=")[2])]
    if not found:
        raise UserError(
            f"--reference {reference}: there is no such group{did_you_mean(reference, groups) or '.'} "
            f"The groups: {', '.join(groups)}"
        )
    return {found[0]: groups[found[0]], **groups}


def _read(run: Run, question: Question, curves: dict[str, Curve]) -> None:
    curves[run.name] = read(run, question.metric, question.budget)


def _said(check: Callable[[], object]) -> list[str]:
    """Return the problems that a check raises."""
    try:
        check()
    except UserError as error:
        return [str(problem) for problem in error.args]
    return []


def _unfinished(runs: list[Run], curves: dict[str, Curve], budget: str) -> list[str]:
    common = met(curves)
    meanwhile = "" if common is None else f"; --at {common:.10g} compares where all have been"
    return [
        f"{run.name} is not finished: its last held-out row is at {curves[run.name].budget[-1]:.10g} "
        f"{BUDGETS[budget]}. Its command continues it{meanwhile}"
        for run in runs
        if not run.finished
    ]


def _notes(groups: list[Group], at: float, question: Question, found: Found, judged: int) -> list[str]:
    """Return the notes that belong beside the numbers."""
    notes = [f"these runs differ in more than {question.by}, which was allowed: {each}" for each in found.unlike]
    if found.following:
        notes.append(f"keys that follow {question.by}: {', '.join(_short(found.following, question.by))}")
    if found.machines and question.budget not in TIMED:
        notes.append(f"not all runs were made on one kind of machine; {found.machines}")
    if judged > 1:
        notes.append(
            f"the {judged} pairs are judged together (Holm): that any of them is called better by chance alone happens "
            "in at most 1 of 20 such comparisons"
        )
    if any(further(end, at) for group in groups for end in group.ends):
        notes.append(
            "runs that ended later are read before their end, where their schedule may not have lowered the learning "
            "rate yet"
        )
    if question.budget == "gpu_hours":
        again = [run.name for group in groups for run in group.runs if run.record["restarts"]]
        if again:
            notes.append(
                f"{listed(again)} went on after interruptions; GPU-hours take it that the number of GPUs "
                "stayed that of the first start"
            )
    return notes


def _short(keys: list[str], by: str) -> list[str]:
    """Keys of the section that `by` names, and of the players that follow it, as one word each."""
    section = by.removesuffix("name") if by.endswith(".name") else f"{by.replace('/', '.')}."
    inside = [key for key in keys if key.startswith(section)]
    players = [key for key in keys if key.startswith("stage.steps.") and f".{by}s." in key]
    words = {f"{section}*": inside, f"stage.steps.*.{by}s.*": players}
    rest = [key for key in keys if key not in inside and key not in players]
    return [*(f"{len(found)} of {word}" for word, found in words.items() if found), *rest]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.compare",
        description="Compare groups of runs by a held-out metric at equal budget: mean differences with 95 % intervals "
        "over seeds, or how many seeds would show one.",
        epilog="Exit code: 0 compared, whatever came out; 2 the runs cannot be compared, and why. Example: "
        "python -m fluxflow_exp.compare outputs/activation --by model.activation --metric val_psnr --budget images",
    )
    parser.add_argument("out", type=Path, nargs="+", metavar="OUT", help="run folders, or folders of them (a sweep)")
    parser.add_argument("--by", required=True, metavar="KEY", help="configuration key whose values are compared")
    parser.add_argument("--metric", required=True, help="held-out metric, e.g. val_psnr, or of evaluations: ssim, fd@4")
    parser.add_argument("--budget", choices=list(BUDGETS), default="images", help="what is equal (default images)")
    parser.add_argument(
        "--at", type=float, metavar="N", help="the budget; by default the largest that all runs reached"
    )
    parser.add_argument("--reference", metavar="VALUE", help="value that others are compared with; default: the first")
    parser.add_argument(
        "--pairs", choices=("all", "reference"), default="all", help="every two groups, or each with the reference"
    )
    parser.add_argument(
        "--effect", type=float, metavar="D", help="difference to count seeds for; default: the observed"
    )
    parser.add_argument("--better", choices=("higher", "lower"), help="for a metric whose name does not tell")
    parser.add_argument("--wandb", metavar="PROJECT", help="send the same to this project of Weights & Biases")
    parser.add_argument("--trust", action="append", default=[], metavar="WORD", help=published.TRUST)
    parser.add_argument("--allow", default="", metavar="KINDS", help="differences put up with: data,code,config")
    parser.add_argument(
        "--out", dest="folder", type=Path, metavar="FOLDER",
        help="for comparison.md, .json and .png; default: comparison/ beside the first run",
    )  # fmt: skip
    return parser


@failures.command
def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(words)
    allow = [kind for kind in options.allow.split(",") if kind]
    higher = options.better == "higher" if options.better else higher_is_better(options.metric)
    problems = [f"--allow {kind}: choose of {', '.join(KINDS)}" for kind in allow if kind not in KINDS]
    if options.effect is not None and not options.effect > 0:
        problems.append(f"--effect must be above 0, not {options.effect:g}")
    if options.folder and options.folder.exists() and not options.folder.is_dir():
        problems.append(f"--out {options.folder}: this is a file, and a folder is wanted")
    published.allow(options.trust)
    runs = find(options.out)
    if higher is None:
        metrics.check_metric(runs, options.metric)
        problems.append(f"whether more {options.metric} is better, its name does not tell: add --better higher|lower")
    if problems:
        raise UserError(*problems)
    question = Question(
        options.by, options.metric, options.budget, bool(higher), options.effect, options.pairs == "reference"
    )
    with files.understood(runs[0].folder.path.parent):
        found = compare(runs, question, reference=options.reference, at=options.at, allow=allow)
    print(output.table(found))
    folder = options.folder or runs[0].folder.path.parent / "comparison"
    with failures.output("--out FOLDER writes the files elsewhere"):
        written = output.write(found, folder, words)
    print("\n".join(map(str, written)))
    older = output.outdated(found, folder)
    if older:
        page = folder / "comparison.html"
        report = ["python", "-m", "fluxflow_exp.report", *map(str, options.out)]
        report += ["--output", str(page)] if options.folder else []
        print(f"Note: {page} is of {older}; {shlex.join(report)} draws it again")
    if options.wandb:
        from fluxflow_exp.compare import wandb

        print(f"W&B: {wandb.send(found, output.facts(found, words), folder, options.wandb)}")
    return 0
