"""Starting, continuing, or refusing: what a command means for the run folder that it names."""

from __future__ import annotations

import hashlib
import platform
import secrets
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxflow_exp import __version__, config, files, mirror, summary
from fluxflow_exp.config import UserError
from fluxflow_exp.console import Console
from fluxflow_exp.run_folder import RunFolder, identity_differences, is_extension, tell

if TYPE_CHECKING:
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
    for line in mirror.bring_back(folder, values) if values["resume"] != "fresh" else []:
        console.say(line)
    made_with = {"machine": machine, **_versions()}
    devices = values["hardware"]["devices"] * values["hardware"]["slurm"]["nodes"]
    planned = {"planned": {name: asdict(each) for name, each in lengths.items()}}
    if not folder.exists():
        _refuse_foreign(folder)
        folder.lock()
        create(folder, values, _given())
        return _start(folder, folder.read_record() | planned, made_with, console, devices=devices)
    refuse_other(folder, values)
    record = folder.read_record()
    done = all(summary.is_finished(record["steps"].get(name), each) for name, each in lengths.items())
    if done and folder.summary.exists():
        console.say(f"{folder.path}: complete")
        return "complete"
    folder.lock()
    if extends(folder, values):
        folder.freeze(values)
        folder.summary.unlink(missing_ok=True)
        record["overrides"] = _given()
    return _start(folder, record | planned, made_with, console, devices=devices)


def create(folder: RunFolder, values: dict[str, Any], overrides: list[str]) -> None:
    """Make the folder, with all that the run is held to: configuration, code, and the weights that it starts from."""
    commit, diff = code()
    folder.create(
        values,
        {
            "name": values["name"],
            "seed": values["seed"],
            "overrides": overrides,
            "commit": commit,
            "changed_code": hashlib.sha256(diff.encode()).hexdigest()[:16] if diff else None,
            "upstream": _upstream(values),
            "made_with": None,
        },
    )
    if diff:
        files.write_text(folder.path / "code.diff", diff)


def _given() -> list[str]:
    """The overrides of this command line."""
    return [word for word in sys.argv[1:] if word[:1] == "~" or (word[:1] != "-" and "=" in word)]


def _start(
    folder: RunFolder, record: dict[str, Any], made_with: dict[str, str], console: Console, *, devices: int
) -> str:
    folder.failure.unlink(missing_ok=True)
    folder.non_finite.unlink(missing_ok=True)
    again, closed = record["started"], record["closed"]
    if again:
        record["restarts"] += 1
        record["kills"] += closed is None  # the process before did not live to say how it ended
        console.say(f"Continuing the run in {folder.path} (restart {record['restarts']})")
    _note_changes(record, made_with, console)
    record |= {"started": True, "closed": None}
    record.setdefault("starts", []).append(  # runs that began before starts were listed have none
        {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "id": secrets.token_hex(4),
            "after": (closed or "killed") if again else None,
            "machine": made_with["machine"],
            "devices": devices,
            "seconds": 0.0,
            "spent": {},
        }
    )
    record["made_with"] = record["made_with"] or made_with
    folder.write_record(record)
    return "continued" if again else "new"


def _note_changes(record: dict[str, Any], made_with: dict[str, str], console: Console) -> None:
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


def _refuse_foreign(folder: RunFolder) -> None:
    ours = {".lock", "config.yaml", "checkpoints", "weights", "graph", "samples", "plan.json"}
    if folder.path.is_dir() and any(p.name not in ours for p in folder.path.iterdir()):
        raise UserError(f"{folder.path} is not empty and holds no run of this program. Choose another name=…")


def differences(folder: RunFolder, values: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key → (value there, value asked) for what makes it another run."""
    return identity_differences(values, folder.frozen())


def extends(folder: RunFolder, values: dict[str, Any]) -> bool:
    """Whether the command asks for more epochs of the last step, and says so."""
    return is_extension(values, folder.frozen())


def refuse_other(folder: RunFolder, values: dict[str, Any]) -> None:
    """UserError: the folder holds a run with another configuration."""
    differing = differences(folder, values)
    if not differing or extends(folder, values):
        return
    raise UserError(
        f"{folder.path} holds a run with another configuration:\n{tell(differing)}\n"
        "  Give this one its own name=…, or resume=fresh (moves the old folder aside), or, for more epochs of "
        "the last step alone, resume=extend"
    )


def changed_upstream(record: dict[str, Any]) -> list[str]:
    """Weights of other runs that a run started from and that are not the same any more; one line each."""
    return [
        f"{name} {'has changed' if Path(name).exists() else 'is gone'}"
        for name, digest in record["upstream"].items()
        if not Path(name).exists() or files.digest(Path(name)) != digest
    ]


def _upstream(values: dict[str, Any]) -> dict[str, str]:
    """File → digest of the weights that the steps start from."""
    from fluxflow_exp import weights  # torch

    sources = [step["init_from"] for step in values["stage"]["steps"].values() if step["init_from"]]
    found = {path for source in sources for path in weights.find_parts(Path(source).expanduser()).values()}
    return {str(path.absolute()): files.digest(path) for path in sorted(found)}


def _versions() -> dict[str, str]:
    found = {"fluxflow_exp": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def code() -> tuple[str | None, str]:
    """The commit of the folder that this package stands in, and what was changed in it since."""
    here = Path(__file__).parent
    try:
        asked = [
            subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, timeout=30, check=False)
            for command in (("rev-parse", "HEAD"), ("diff", "HEAD", "--", str(here), config.conf_dir()))
        ]
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None, ""
    return asked[0].stdout.strip() or None, asked[1].stdout if asked[1].returncode == 0 else ""
