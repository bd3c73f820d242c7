"""`digests.json` of a run: what its finished files were when they were written."""

from pathlib import Path
from typing import Any

from fluxflow_exp import files
from fluxflow_exp.errors import UserError
from fluxflow_exp.run.folder import RunFolder


def read(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """Name → sha256, bytes and time of change of each finished file. DamagedError: the list is not whole."""
    if not folder.digests.exists():
        return {}
    found = files.read_fields(folder.digests)
    for name, entry in found.items():
        if not isinstance(entry, dict) or not {"sha256", "bytes", "changed"} <= entry.keys():
            raise files.DamagedError(f"{folder.digests} is damaged: its entry of {name!r} is {entry!r:.80}")
    return found


def published(folder: RunFolder) -> dict[str, str]:
    """Name → sha256 of each listed file of weights; nothing if the list is not whole."""
    try:
        return {name: entry["sha256"] for name, entry in read(folder).items() if name.startswith("weights/")}
    except files.DamagedError:
        return {}


def forget(folder: RunFolder, *paths: Path) -> None:
    """Take files that are about to be published anew from the list: killed in between, none is held to what it was."""
    names = {path.relative_to(folder.path).as_posix() for path in paths}
    if not names.isdisjoint(published(folder)):
        files.write_json(folder.digests, {name: e for name, e in read(folder).items() if name not in names})


def check_finished(folder: RunFolder, steps: list[str]) -> None:
    """UserError: weights that a finished step has published are gone or changed, and a later one starts from them."""
    from fluxflow_exp.models import weights  # torch

    listed = published(folder)
    problems = []
    for name in [f"{step}{kind}.safetensors" for step in steps for kind in ("", ".raw")]:
        try:
            weights.read_facts(folder.weights / name)
        except ValueError as error:
            problems.append(str(error))
        else:
            if listed.get(f"weights/{name}", "") not in ("", files.digest(folder.weights / name)):
                problems.append(f"{folder.weights / name} has changed: its digest is not that in {folder.digests.name}")
    if problems:
        raise UserError(
            f"{folder.path}: weights of finished steps are not as they were published:\n"
            + "".join(f"    {line}\n" for line in problems)
            + "  Bring them back from a mirror or a backup, and the same command continues; or resume=fresh moves the "
            "folder aside and begins anew"
        )
