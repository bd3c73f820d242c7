"""The provenance of a run: versions of packages, the code that this package is, and the user's own."""

import hashlib
import inspect
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fluxflow_exp import __version__, files
from fluxflow_exp.config import compose, published
from fluxflow_exp.console import Console

PACKAGES = ("torch", "hydra-core", "omegaconf", "safetensors", "numpy", "pillow", "transformers")

OwnCode = dict[str, list[dict[str, str]]]  # class → the versions of its file that a run was trained with, in turn


def note_changes(record: dict[str, Any], made_with: dict[str, str], console: Console) -> None:
    """Say what is not as it was when the run began."""
    for name, old in (record["made_with"] or {}).items():
        if made_with.get(name) != old:
            console.say(f"Note: {name} was {old!r} and is {made_with.get(name)!r}: the result may differ by rounding")
    commit, diff = code()
    changed = hashlib.sha256(diff.encode()).hexdigest()[:16] if diff else None
    if (commit, changed) != (record["commit"], record["changed_code"]):
        then, now = _code(record["commit"], record["changed_code"]), _code(commit, changed)
        console.say(f"Note: the code is not the one that this run was made with (then: {then}, now: {now})")


def enter_own(record: dict[str, Any], values: dict[str, Any], console: Console) -> None:
    """Say which of the user's own code is not what the run was last made with, and enter it in the run's record."""
    known: OwnCode = record.setdefault("own_code", {})  # runs that began before it was recorded have none
    changed: dict[tuple[str, str], list[str]] = {}
    for name, now in own_code(values).items():
        then = known.setdefault(name, now)
        if then[-1]["sha256"] != now[0]["sha256"]:
            changed.setdefault((_version(then[-1]), _version(now[0])), []).append(name)
            then += now
    for (old, new), names in changed.items():
        own = " and ".join(names)
        console.say(f"Note: the code of {own} is not the one that this run was made with (then: {old}, now: {new})")


def own_code(values: dict[str, Any]) -> OwnCode:
    """Each class of the user's own that `values` name, with the name and SHA-256 of the file that it is written in."""
    names = sorted({node[published.TARGET] for _, node in published.nodes(values)})
    sources = {name: _source(name) for name in names if published.is_own(name)}
    return {name: [{"file": path.name, "sha256": files.digest(path)}] for name, path in sources.items() if path}


def _source(name: str) -> Path | None:
    """The file of the module that defines the class or function called `name`; None: there is none to be read."""
    found = published.locate(name)
    # A package may only pass on what one of its modules defines.
    defined = inspect.isclass(found) or inspect.isroutine(found)
    module = sys.modules.get(found.__module__ if defined else name.rpartition(".")[0])
    path = Path(getattr(module, "__file__", None) or "")
    return path if path.is_file() else None


def _version(file: dict[str, str]) -> str:
    return f"{file['file']} {file['sha256'][:10]}"


def _code(commit: str | None, changed: str | None) -> str:
    return f"{(commit or 'no commit')[:10]}{' with changes' if changed else ''}"


def versions() -> dict[str, str]:
    found = {"fluxflow_exp": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def code() -> tuple[str | None, str]:
    """The commit of the folder that this package stands in, and what was changed in it since."""
    here = Path(__file__).parents[1]
    try:
        asked = [
            subprocess.run(
                ["git", *command],
                cwd=here,
                capture_output=True,
                timeout=30,
                check=False,
                encoding="utf-8",
                errors="replace",  # a changed line may hold anything
            )
            for command in (("rev-parse", "HEAD"), ("diff", "HEAD", "--", str(here), compose.conf_dir()))
        ]
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None, ""
    return asked[0].stdout.strip() or None, asked[1].stdout if asked[1].returncode == 0 else ""
