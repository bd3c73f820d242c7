"""The provenance of a run: versions of packages, and the code that this package is."""

import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fluxflow_exp import __version__
from fluxflow_exp.config import compose
from fluxflow_exp.console import Console

PACKAGES = ("torch", "hydra-core", "omegaconf", "safetensors", "numpy", "pillow", "transformers")


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
