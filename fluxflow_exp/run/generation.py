"""A whole copy of a run at one moment: a list of files with digests, and the files beside it.

`<home>/generation-<number>.json` is the list. Each file stands in `home` with a part of its digest in its name, so that
what has not changed is shared by generations, on any file system, and a list is enough to say what is whole.
"""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fluxflow_exp import files
from fluxflow_exp.errors import UserError
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.identity import identity, starts
from fluxflow_exp.run.progress import Progress

FORMAT = 1
LIST = re.compile(r"generation-(?P<number>\d{8,})\.json")
DIGEST = re.compile(r"[0-9a-f]{64}")
# Without one of these a run cannot go on, or would come to less.
NEEDED = re.compile(r"run\.json|config\.yaml|graph/.*\.jsonl|weights/.*")
OF_THE_MACHINE = (".lock", "submitted.json")  # of which processes run here, and mean nothing elsewhere


class File(NamedTuple):
    """A file that a generation lists."""

    sha256: str | None  # None: of a plain copy, which had no digests
    bytes: int
    changed: int  # nanoseconds

    def place(self, home: Path, name: str) -> Path:
        """Return the place of the content of the run's file `name`."""
        path = home / name
        return path.with_name(f"{path.stem}.{self.sha256[:16]}{path.suffix}") if self.sha256 else path

    def is_there(self, home: Path, name: str) -> bool:
        place = self.place(home, name)
        return place.is_file() and place.stat().st_size == self.bytes


# One field for each key of the list, and where that is.
@dataclass(frozen=True)
class Generation:
    """`number` 0: a plain copy, as earlier versions made them."""

    home: Path
    number: int
    run: str
    identity: str
    starts: list[str]
    progress: Progress
    time: str
    config: dict[str, Any]
    files: dict[str, File]

    @property
    def listing(self) -> Path:
        return self.home / f"generation-{self.number:08d}.json"

    def write(self) -> None:
        """From here on the generation exists."""
        known = {key: getattr(self, key) for key in ("run", "identity", "starts", "time", "config")}
        entries = {name: entry._asdict() for name, entry in self.files.items()}
        files.write_json(self.listing, {"format": FORMAT, **known, "progress": asdict(self.progress), "files": entries})

    def remove(self, kept: Generation) -> None:
        """Take the generation away, but for what it shares with `kept`; its list first."""
        self.listing.unlink(missing_ok=True)
        remove(places(self.home, self.files) - places(self.home, kept.files))

    def restore(self, target: Path) -> list[str]:
        """Fill the folder `target` with the run; names of files that are not whole, and left out."""
        damaged = []
        for name, entry in self.files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                sha256 = files.copy(entry.place(self.home, name), path)
            except FileNotFoundError:
                damaged.append(name)
                continue
            if entry.sha256 not in (None, sha256) or not fits(name, sha256):
                damaged.append(name)
                path.unlink()
        for folder in {target, *(path.parent for path in target.rglob("*"))}:
            files.sync_folder(folder)
        return damaged


def places(home: Path, listed: dict[str, File]) -> set[Path]:
    """Return the places of the contents of listed files."""
    return {entry.place(home, name) for name, entry in listed.items()}


def remove(paths: set[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def newest(home: Path) -> Generation | None:
    """The newest whole list in `home`."""
    numbers = {
        path: int(match["number"]) for path in files.matching(home, "*.json") if (match := LIST.fullmatch(path.name))
    }
    found = (_read(path, numbers[path]) for path in sorted(numbers, key=numbers.__getitem__, reverse=True))
    return next(filter(None, found), None)


def plain(home: Path) -> Generation | None:
    """A copy that an earlier version made: the files under their own names."""
    from fluxflow_exp.run import checkpoint  # torch

    folder = RunFolder(home)
    try:
        record, config = folder.read_record(), folder.frozen()
        finished = len(record["steps"])
    except (UserError, OSError, KeyError, TypeError):
        return None
    paths = [path for path in sorted(home.rglob("*")) if is_copied(path)]
    stats = {path.relative_to(home).as_posix(): path.stat() for path in paths}
    whole = [path.name for path in checkpoint.CheckpointStore(folder.checkpoints).paths() if checkpoint.is_intact(path)]
    return Generation(
        home=home,
        number=0,
        run=config["name"] if Path(config["name"]).name == home.name else f"{config['name']}/{home.name}",
        identity=identity(record),
        starts=starts(record),
        progress=Progress.of(whole, finished=finished, complete="summary.json" in stats),
        time="",
        config=config,
        files={name: File(None, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()},
    )


def take(source: Path, home: Path, name: str) -> File:
    """Copy a file of the run to `home`, durably, and read it back."""
    place = home / name
    temporary = place.with_name(f"tmp-{os.getpid()}-{place.name}")
    with files.naming(place), files.removing(temporary):
        place.parent.mkdir(parents=True, exist_ok=True)
        changed = source.stat().st_mtime_ns  # before it is read: what is written meanwhile is copied the next time
        sha256 = files.copy(source, temporary)
        if files.digest(temporary) != sha256:
            raise OSError(errno.EIO, "what was written reads back as something else")
        entry = File(sha256, temporary.stat().st_size, changed)
        temporary.replace(entry.place(home, name))
    return entry


def tidy(home: Path) -> None:
    """Take away what a process that was killed has left in `home`: all that the newest generation does not list."""
    lists = [path for path in files.matching(home, "*.json") if LIST.fullmatch(path.name)]
    found = newest(home)
    if found is None or found.listing != max(lists, key=lambda path: (len(path.name), path.name)):
        return  # the newest list is not whole: nothing is taken away
    remove({path for path in home.rglob("*") if path.is_file()} - places(home, found.files) - {found.listing})


def fits(name: str, sha256: str) -> bool:
    """Whether a file has the digest that its name says; only a checkpoint's does."""
    from fluxflow_exp.run import checkpoint  # torch

    match = checkpoint.NAME.fullmatch(Path(name).name) if name.startswith("checkpoints/") else None
    return match is None or sha256.startswith(match["digest"])


def copied(folder: RunFolder) -> list[Path]:
    """The files of a run that belong to its copies, also where one of its folders is a link to another disk."""
    parts = (folder.checkpoints, folder.weights, folder.graph, folder.samples, folder.path / "evaluations")
    linked = [path for part in parts if part.is_symlink() for path in part.rglob("*")]
    return sorted(filter(is_copied, {*folder.path.rglob("*"), *linked}))


def is_copied(path: Path) -> bool:
    """Whether a file of a run folder belongs to its copies."""
    return path.is_file() and path.name not in OF_THE_MACHINE and not path.is_symlink() and path.name[:4] != "tmp-"


def _read(path: Path, number: int) -> Generation | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            return None
        entries = {name: File(**entry) for name, entry in found["files"].items()}
        if not all(map(_is_sound, entries, entries.values())):
            return None
        return Generation(
            home=path.parent,
            number=number,
            **{key: found[key] for key in ("run", "identity", "starts", "time", "config")},
            progress=Progress(**found["progress"]),
            files=entries,
        )
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        return None


def _is_sound(name: str, entry: File) -> bool:
    """Whether a listed file stands, and will stand, below the folder that it is said to be in."""
    path = Path(name)
    inside = not path.is_absolute() and ".." not in path.parts and bool(path.name)
    return inside and DIGEST.fullmatch(entry.sha256 or "") is not None
