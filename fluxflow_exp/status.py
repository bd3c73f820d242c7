"""`python -m fluxflow_exp.status outputs/NAME`: what has become of a run, of a sweep, or of all runs below a folder."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import Failure, compose_config
from fluxflow_exp.errors import UserError
from fluxflow_exp.run import failures, lookup, states
from fluxflow_exp.run.folder import RunFolder

# Overrides by which Hydra would read elsewhere: its own keys, resolvers such as ${oc.env:…}, groups by a path.
REACHING = re.compile(r"^[+~]*hydra\b|\$\{[^}]*:|\.\./")


@failures.command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.status",
        description="One line for each run below FOLDER: done, running, queued, interrupted, failed (with the reason "
        "and the log), damaged (with the file at fault), or stale (its configuration or the weights that it started "
        "from have changed since).",
        epilog="Exit code: 0 if all runs are done, 1 if not, 2 if there is none.",
    )
    parser.add_argument("folder", type=Path, nargs="+", help="run folder, sweep folder, or outputs")
    parser.add_argument("--config-dir", help="the folder of your own groups, if the runs were launched with one")
    options = parser.parse_args(arguments)
    code = 0
    for folder in options.folder:
        runs = lookup.several([folder])
        folder = folder if runs[0].path.is_relative_to(folder) else runs[0].path  # what was named stands in it
        entries = [states.inspect(run, _values_now(run, options.config_dir)) for run in runs]
        names = [run.path.relative_to(folder).as_posix() for run in runs]
        labels = states.labels([states.overrides(run) for run in runs])
        apart = any(word.startswith("name=") for label in labels for word in label.split())  # no jobs of one sweep
        shown = labels if len(set(labels)) == len(runs) > 1 and not apart else names
        shown = [folder.name if each == "." else each for each in shown]
        print(f"{folder}\n{states.table(list(zip(shown, entries, strict=True)), noun='run')}")
        if any(entry.state != states.DONE for entry in entries):
            code = 1
    return code


def _values_now(run: RunFolder, config_dir: str | None) -> dict[str, Any] | None:
    """The configuration that the run's command has now; None where it cannot be composed here.

    The words stand in a file: what they name is looked at, and neither built nor asked of this machine.
    """
    words = states.overrides(run)
    if any(REACHING.search(word) for word in words):
        return None
    try:
        return resolve(compose_config(words, config_dir=config_dir), own=False) if run.config.exists() else None
    except (*Failure, OmegaConfBaseException, UserError):
        return None


if __name__ == "__main__":
    sys.exit(main())
