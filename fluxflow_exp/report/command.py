"""`python -m fluxflow_exp.report RUN…`: the card of a run, or one page that lays several side by side.

Each page is one file that opens without a network. A run writes its own card at its end, and while it goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxflow_exp import files
from fluxflow_exp.errors import UserError
from fluxflow_exp.run import failures
from fluxflow_exp.run.folder import RunFolder

if TYPE_CHECKING:
    from fluxflow_exp.report.facts import Card

# What a card is made of is imported where one is made: --help does without it.


def write_card(folder: RunFolder, output: Path | None = None) -> Path:
    """Write the card of a run, by default to its `report.html`. UserError: there is no run, or a file is not whole."""
    from fluxflow_exp.report import card, facts

    target = output or folder.path / "report.html"
    with files.understood(folder.path):
        made = card.write(facts.read(folder))
    _write(target, made)
    return target


def write_comparison(folders: Sequence[RunFolder], output: Path | None = None) -> Path:
    """Write a page of several runs, by default to `comparison/comparison.html` beside the first one.

    Sentences and table of a `comparison.json` in the same folder are in it. UserError: as for a card.
    """
    from fluxflow_exp.report import comparison

    target = output or folders[0].path.parent / "comparison" / "comparison.html"
    cards = _cards(folders)
    with files.understood(target.parent):
        made = comparison.write(cards, _compared(target.parent, folders))
    _write(target, made)
    return target


def _write(target: Path, page: str) -> None:
    with failures.output("--output FILE writes the page elsewhere"):
        files.write_text(target, page)


def _cards(folders: Sequence[RunFolder]) -> list[Card]:
    """Return the cards that can be made, and print why the others cannot. UserError: none can."""
    from fluxflow_exp.report import facts

    cards, problems = [], []
    for folder in folders:
        try:
            with files.understood(folder.path):
                cards.append(facts.read(folder))
        except UserError as error:
            problems.append(str(error))
    if not cards:
        raise UserError(*problems)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    return cards


def _compared(folder: Path, runs: Sequence[RunFolder]) -> dict[str, Any] | None:
    """Return the comparison.json in `folder` if it compares some of these `runs` and no others."""
    path = folder / "comparison.json"
    if not path.exists():
        return None
    found: dict[str, Any] = files.read_json(path)
    theirs = {Path(run["path"]).absolute().name for group in found["groups"] for run in group["runs"]}
    others = theirs - {run.path.absolute().name for run in runs}
    if others:
        print(f"Note: {path} is left out, since it compares other runs, too: {', '.join(sorted(others))}")
        return None
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.report",
        description="Write a run's card: configuration, pictures over time, curves, metrics with their provenance, "
        "cost, restarts; of several runs one page with their curves in one picture and their pictures side by side.",
        epilog="Examples: python -m fluxflow_exp.report outputs/quickstart   writes outputs/quickstart/report.html. "
        "python -m fluxflow_exp.report outputs/activation   writes outputs/activation/comparison/comparison.html, with "
        "what fluxflow_exp.compare has left there. Exit code: 0 written, 2 there is no run, or a file of it is "
        "not whole.",
    )
    parser.add_argument("run", type=Path, nargs="+", metavar="RUN", help="run folders, or folders of them (a sweep)")
    parser.add_argument(
        "--output", type=Path, metavar="FILE",
        help="the page; default: report.html in the run, comparison/comparison.html beside the first of several",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the same without pictures as JSON to FILE")
    parser.add_argument("--graphs", action="store_true", help="draw the pictures in graph/ first (fluxflow_exp.plot)")
    return parser


@failures.command
def cli(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    from fluxflow_exp.compare.runs import find

    folders = [run.folder for run in find(options.run)]
    if options.graphs:
        from fluxflow_exp import plot

        for folder in folders:
            with failures.output("Without --graphs the page is made of what there is"):
                plot.draw(folder.graph)
    if len(folders) == 1:
        print(write_card(folders[0], options.output))
    else:
        print(write_comparison(folders, options.output))
    if options.json:
        from fluxflow_exp.report import facts

        found = [facts.as_json(card) for card in _cards(folders)]
        files.write_json(options.json, found[0] if len(found) == 1 else found)
        print(options.json)
    return 0
