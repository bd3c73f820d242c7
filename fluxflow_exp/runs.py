"""Starting, continuing, or refusing: what a command means for the run folder that it names."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fluxflow_exp import __version__, summary
from fluxflow_exp.config import UserError
from fluxflow_exp.console import Console
from fluxflow_exp.run_folder import EXTENSIBLE, RunFolder, identity_differences
from fluxflow_exp.trainers.setup import Length

PACKAGES = ("torch", "hydra-core", "omegaconf", "safetensors", "numpy", "pillow", "transformers")


def open_run(
    folder: RunFolder, values: dict[str, Any], lengths: dict[str, Length], console: Console, *, machine: str
) -> str:
    """Make, continue or leave alone: "new", "continued" or "complete". UserError: the folder holds another run.

    `machine` goes into the run's record.
    """
    if values["resume"] == "fresh" and folder.exists():
        console.say(f"The earlier run was moved to {folder.move_aside()}")
    if folder.restore():
        console.say(f"Brought {folder.path} back from its mirror")
    here = {"machine": machine, **_versions()}
    if not folder.exists():
        _refuse_foreign(folder)
        folder.lock()
        facts = {"name": values["name"], "seed": values["seed"], "commit": _commit(), "made_with": here}
        folder.create(values, facts)
        return "new"
    record = folder.read_record()
    longer = _extends(folder, values)
    done = all(summary.is_finished(record["steps"].get(name), each) for name, each in lengths.items())
    if done and folder.summary.exists():
        console.say(f"{folder.path}: complete")
        return "complete"
    folder.lock()
    if longer:
        folder.freeze(values)
        folder.summary.unlink(missing_ok=True)
    record["restarts"] += 1
    folder.write_record(record)
    console.say(f"Continuing the run in {folder.path} (restart {record['restarts']})")
    for name, old in record["made_with"].items():
        if here.get(name) != old:
            console.say(f"Note: {name} was {old!r} and is {here.get(name)!r}: the continuation may differ by rounding")
    return "continued"


def _refuse_foreign(folder: RunFolder) -> None:
    ours = {".lock", "config.yaml", "checkpoints", "weights", "graph", "samples"}
    if folder.path.is_dir() and any(p.name not in ours for p in folder.path.iterdir()):
        raise UserError(f"{folder.path} is not empty and holds no run of this program. Choose another name=…")


def _extends(folder: RunFolder, values: dict[str, Any]) -> bool:
    """Whether the command asks for more epochs of the last step. UserError: it asks for another run."""
    differing = identity_differences(values, folder.frozen())
    if not differing:
        return False
    last = list(values["stage"]["steps"])[-1]
    if values["resume"] == "extend" and set(differing) <= {f"stage.steps.{last}.{key}" for key in EXTENSIBLE}:
        return True
    lines = [f"    {key}: {theirs!r} there, {mine!r} asked" for key, (theirs, mine) in differing.items()]
    raise UserError(
        f"{folder.path} holds a run with another configuration:\n" + "\n".join(lines) + "\n"
        "  Give this one its own name=…, or resume=fresh (moves the old folder aside), or, for more epochs of "
        "the last step alone, resume=extend"
    )


def _versions() -> dict[str, str]:
    found = {"fluxflow_exp": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def _commit() -> str | None:
    """The commit of the working directory, where there is one."""
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() or None
