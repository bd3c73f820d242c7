"""`python -m fluxflow_exp.verify RUN…`: whether everything in a run folder is what was written there."""

import argparse
import sys
from pathlib import Path

from rich.progress import track

from fluxflow_exp import files
from fluxflow_exp.console import Console
from fluxflow_exp.errors import UserError, counted
from fluxflow_exp.run import digest_list, failures, lookup, states, tally
from fluxflow_exp.run.folder import RunFolder


def lists(folder: RunFolder, *paths: Path) -> bool:
    """Whether the digests of a run have these files of it, where they are there, as they are."""
    try:
        listed = digest_list.read(folder)
    except files.DamagedError:
        return False
    changed = {path: listed.get(path.relative_to(folder.path).as_posix(), {}).get("changed") for path in paths}
    return all(changed[path] == path.stat().st_mtime_ns for path in paths if path.exists())


def write_digests(folder: RunFolder, console: Console) -> None:
    """List the finished files of a run with their digests; one that has not changed since is not read again.

    Weights that are not what was published stay listed as that: they have been damaged.
    """
    try:
        known = digest_list.read(folder)
    except files.DamagedError as error:
        console.say(f"{error}; it is written anew, from the files as they are now")
        known = {}
    listed = {}
    for path in _finished(folder):
        name = path.relative_to(folder.path).as_posix()
        stat = path.stat()
        same = known.get(name)
        if same and (same["bytes"], same["changed"]) == (stat.st_size, stat.st_mtime_ns):
            listed[name] = same
            continue
        sha256 = files.digest(path)
        if same and path.parent == folder.weights and sha256 != same["sha256"]:
            listed[name] = same
        else:
            listed[name] = {"sha256": sha256, "bytes": stat.st_size, "changed": stat.st_mtime_ns}
    files.write_json(folder.digests, listed)


def problems(folder: RunFolder) -> tuple[list[str], int]:
    """Return a line for each thing that is not as it was written, and how many files were looked at."""
    from fluxflow_exp.run import checkpoint  # torch, which --help does without

    listed = digest_list.read(folder)
    found = []
    for name, entry in track(listed.items(), description="Verifying", transient=True):
        path = folder.path / name
        if not path.exists():
            found.append(f"{name} is missing")
        elif path.stat().st_size != entry["bytes"]:
            found.append(f"{name} has {path.stat().st_size} bytes and had {entry['bytes']}")
        elif files.digest(path) != entry["sha256"]:
            found.append(f"{name} has changed")
    saved = checkpoint.CheckpointStore(folder.checkpoints).paths()
    found += [f"checkpoints/{path.name} is not whole" for path in saved if not checkpoint.is_intact(path)]
    found += [
        f"the last checkpoint of step {step} is missing"
        for step in folder.read_record()["steps"]
        if not files.matching(folder.checkpoints, f"??-{step}-????????-final-*.pt")
    ]
    record = folder.read_record()
    found += [f"went on without: {line}" for line in record.get("lost", [])]
    found += tally.missing_rows(folder, record) + tally.missing_pictures(folder, record)
    return found, len(listed) + len(saved)


def _looked(folder: RunFolder) -> tuple[list[str], int]:
    """As `problems`; what cannot be read at all is one of them."""
    try:
        with files.understood(folder.path):
            found, count = problems(folder)
    except UserError as error:
        return [f"damaged: {error}"], 0
    except OSError as error:
        return [f"damaged: {failures.of_file(error)}"], 0
    why = states.damage(folder)
    return [*found, *([f"damaged: {why}"] if why else [])], count


def _finished(folder: RunFolder) -> list[Path]:
    """Files that will not change any more: the configuration, and what finished steps have left."""
    steps = folder.read_record()["steps"]
    single = [folder.config, folder.summary, folder.path / "code.diff", *map(folder.metrics, steps)]
    many = files.matching(folder.weights, "*.safetensors") + files.matching(folder.samples, "*.webp")
    return [path for path in [*single, *many] if path.exists()]


@failures.command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.verify",
        description="Read every file of finished steps, and every checkpoint, and compare digests. A run that cannot "
        "be read at all is said to be damaged.",
        epilog="Exit code: 0 all is as it was written, 1 something is not, 2 there is no run.",
    )
    parser.add_argument("run", type=Path, nargs="+", help="run folders, or folders of them (a sweep)")
    options = parser.parse_args(arguments)
    code = 0
    for folder in lookup.several(options.run, aside=True):
        found, count = _looked(folder)
        print(
            f"{folder.path}: {counted(count, 'file')}, {counted(len(found), 'problem')}"
            + "".join(f"\n  {line}" for line in found)
        )
        code = 1 if found else code
    return code


if __name__ == "__main__":
    sys.exit(main())
