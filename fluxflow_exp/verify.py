"""`python -m fluxflow_exp.verify RUN…`: whether everything in a run folder is what was written there."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.progress import track

from fluxflow_exp import files, tally
from fluxflow_exp.console import fail
from fluxflow_exp.run_folder import RunFolder


def write_digests(folder: RunFolder) -> None:
    """List the finished files of a run with their digests; one that has not changed since is not read again."""
    known = files.read_json(folder.digests) if folder.digests.exists() else {}
    listed = {}
    for path in _finished(folder):
        name = path.relative_to(folder.path).as_posix()
        stat = path.stat()
        same = known.get(name)
        if same and (same["bytes"], same["changed"]) == (stat.st_size, stat.st_mtime_ns):
            listed[name] = same
        else:
            listed[name] = {"sha256": files.digest(path), "bytes": stat.st_size, "changed": stat.st_mtime_ns}
    files.write_json(folder.digests, listed)


def problems(folder: RunFolder) -> tuple[list[str], int]:
    """What is not as it was written, one line each, and how many files were looked at."""
    from fluxflow_exp import checkpoint  # torch, which --help does without

    listed: dict[str, Any] = files.read_json(folder.digests) if folder.digests.exists() else {}
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
        if not any(folder.checkpoints.glob(f"??-{step}-????????-final-*.pt"))
    ]
    record = folder.read_record()
    found += tally.missing_rows(folder, record) + tally.missing_pictures(folder, record)
    return found, len(listed) + len(saved)


def _finished(folder: RunFolder) -> list[Path]:
    """Files that will not change any more: the configuration, and what finished steps have left."""
    steps = folder.read_record()["steps"]
    single = [folder.config, folder.summary, folder.path / "code.diff", *map(folder.metrics, steps)]
    many = [*folder.weights.glob("*.safetensors"), *folder.samples.glob("*.webp")]
    return [path for path in [*single, *sorted(many)] if path.exists()]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.verify",
        description="Read every file of finished steps, and every checkpoint, and compare digests.",
        epilog="Exit code: 0 all is as it was written, 1 something is not, 2 there is no run.",
    )
    parser.add_argument("run", type=Path, nargs="+", help="run folders, or folders of them (a sweep)")
    options = parser.parse_args(arguments)
    folders = [RunFolder(path.parent) for each in options.run for path in sorted(each.rglob("run.json"))]
    if not folders:
        fail([f"there is no run in {', '.join(map(str, options.run))}"])
        return 2
    code = 0
    for folder in folders:
        found, count = problems(folder)
        print(f"{folder.path}: {count} files, {len(found)} problems" + "".join(f"\n  {line}" for line in found))
        code = 1 if found else code
    return code


if __name__ == "__main__":
    sys.exit(main())
