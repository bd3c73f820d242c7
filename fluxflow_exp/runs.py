"""Starting, continuing, or refusing: what a command means for the run folder that it names."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fluxflow_exp import __version__
from fluxflow_exp.config import UserError
from fluxflow_exp.console import Console
from fluxflow_exp.run_folder import EXTENSIBLE, RunFolder, identity_differences
from fluxflow_exp.schema import RunConfig
from fluxflow_exp.trainers.setup import Length

PACKAGES = ("torch", "hydra-core", "omegaconf", "safetensors", "numpy", "pillow", "transformers")


def open_run(
    folder: RunFolder,
    values: dict[str, Any],
    config: RunConfig,
    lengths: dict[str, Length],
    console: Console,
) -> str:
    """ "new", "continued" or "complete". UserError: the folder holds another run."""
    if config.resume == "fresh" and folder.exists():
        console.say(f"The earlier run was moved to {folder.move_aside()}")
    if folder.restore():
        console.say(f"Brought {folder.path} back from its mirror")
    if not folder.exists():
        _refuse_foreign(folder)
        folder.lock()
        folder.create(
            values,
            {
                "name": config.name,
                "seed": config.seed,
                "versions": _versions(),
                "commit": _commit(),
            },
        )
        return "new"
    record = folder.read_record()
    _compare(folder, values, config, record)
    done = {name: step["updates"] for name, step in record["steps"].items()}
    if done == {name: each.updates for name, each in lengths.items()} and folder.summary.exists():
        console.say(f"{folder.path}: complete")
        return "complete"
    folder.lock()
    record["restarts"] += 1
    folder.write_record(record)
    console.say(f"Continuing the run in {folder.path} (restart {record['restarts']})")
    for name, old in record["versions"].items():
        if _versions().get(name) != old:
            console.say(f"Note: {name} was {old} and is {_versions().get(name)}: not bit for bit any more")
    return "continued"


def _refuse_foreign(folder: RunFolder) -> None:
    ours = {".lock", "config.yaml", "checkpoints", "weights", "graph", "samples"}
    if folder.path.is_dir() and any(p.name not in ours for p in folder.path.iterdir()):
        raise UserError(f"{folder.path} is not empty and holds no run of this program. Choose another name=…")


def _compare(folder: RunFolder, values: dict[str, Any], config: RunConfig, record: dict[str, Any]) -> None:
    differing = identity_differences(values, folder.frozen())
    if config.resume == "extend":
        last = list(values["stage"]["steps"])[-1]
        longer = {f"stage.steps.{last}.{key}" for key in EXTENSIBLE}
        if differing and set(differing) <= longer:
            folder.config.write_text(_dump(values), encoding="utf-8")
            folder.summary.unlink(missing_ok=True)
            return
    if not differing:
        return
    lines = [f"    {key}: {theirs!r} there, {mine!r} asked" for key, (theirs, mine) in differing.items()]
    raise UserError(
        f"{folder.path} holds a run with another configuration:\n" + "\n".join(lines) + "\n"
        "  Give this one its own name=…, or resume=fresh (moves the old folder aside), or, for more epochs of "
        "the last step alone, resume=extend"
    )


def _dump(values: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


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
