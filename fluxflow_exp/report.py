"""`python -m fluxflow_exp.report RUN…`: the card of a run, or one page that compares several."""

import argparse
import sys
from pathlib import Path
from typing import Any

from fluxflow_exp import files
from fluxflow_exp.config import UserError
from fluxflow_exp.console import fail
from fluxflow_exp.run_folder import RunFolder


def write_card(folder: RunFolder) -> Path:
    """Write `report.html` into a run folder. UserError: there is no run, or a file of it is not whole."""
    from fluxflow_exp.card import facts, page

    target = folder.path / "report.html"
    files.write_text(target, page.write(facts.read(folder)))
    return target


def cli(arguments: list[str] | None = None) -> int:
    folder = RunFolder(Path(sys.argv[1]))
    print(write_card(folder))
    return 0


if __name__ == "__main__":
    sys.exit(cli())
