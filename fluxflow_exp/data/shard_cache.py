"""Shards of object storage in a folder that does not outgrow its bound: the least recently used go.

All processes of a host may share a folder. A shard comes into it whole, by its last rename; one that broke off goes on
where it was. The time of change of a file is that of its last use.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from fluxflow_exp.data.object_storage import State, Storage, patiently
from fluxflow_exp.data.stream import shown
from fluxflow_exp.errors import UserError
from fluxflow_exp.files import naming

OURS = re.compile(r"[0-9a-f]{32}\.(?P<size>\d+)\.(tar|part)")  # what may be taken away


class Shard(NamedTuple):
    """A shard of object storage as it was when the run began."""

    url: str
    state: State
    sha256: str | None = None  # if it is known, which it is from an index that `data.pack` wrote

    @property
    def name(self) -> str:
        return shown(self.url).rpartition("/")[2]

    @property
    def stem(self) -> str:
        """Its file's name in the cache: another one after the shard was written again."""
        text = f"{shown(self.url)}\n{self.state.size}\n{self.state.tag}"
        return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.{self.state.size}"


class ShardCache:
    """At most `gib` GiB of shards in `folder`."""

    def __init__(self, folder: Path, gib: float, storage: Storage) -> None:
        self.folder, self.gib, self.bound, self.storage = folder, gib, int(gib * 2**30), storage

    def path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.stem}.tar"

    def read(self, shard: Shard, offset: int, size: int) -> bytes:
        """A part of a shard, which is fetched if it is not there. UserError: it cannot be."""
        while True:
            try:
                with self.path(shard).open("rb") as file:
                    if os.fstat(file.fileno()).st_size == shard.state.size:
                        os.utime(file.fileno())
                        file.seek(offset)
                        return file.read(size)
                self.path(shard).unlink(missing_ok=True)  # somebody else has cut it off
            except FileNotFoundError:
                self.fetch(shard)
            except OSError as error:
                raise UserError(f"cannot read the shard {shown(shard.url)} in {self.folder}: {error}") from error

    def fetch(self, shard: Shard, *, wait: bool = True) -> None:
        """Bring a shard here. `wait`: until another process has, if one is about to. UserError: it cannot be."""
        part = self.folder / f"{shard.stem}.part"
        what = f"cannot fetch the shard {shown(shard.url)} into {self.folder}"
        try:
            with FileLock(self.folder / f"{shard.stem}.lock", timeout=-1 if wait else 0):
                if not self.path(shard).exists():
                    patiently(what, lambda: self._download(shard, part), lambda: _size(part))
        except Timeout:
            return
        except OSError as error:
            raise UserError(f"{what}: {error}") from error

    def fetch_ahead(self, shards: Iterable[Shard]) -> None:
        """Bring those that are not here and that nobody is fetching; whoever needs one tells what is wrong with it."""
        for shard in shards:
            try:
                if not self.path(shard).exists():
                    self.fetch(shard, wait=False)
            except UserError:
                continue

    def missing(self, shards: Iterable[Shard]) -> int:
        """Bytes of those that are not here."""
        return sum(shard.state.size for shard in shards if not self.path(shard).exists())

    def check_room(self, needed: int) -> None:
        """ValueError: the disk has no room for `needed` bytes, those that are here included."""
        self.folder.mkdir(parents=True, exist_ok=True)
        here = sum(size for _, size, _ in self._held())
        free = shutil.disk_usage(self.folder).free
        if here + free < needed:
            raise ValueError(
                f"cache_gib: {self.folder} would hold {needed / 2**30:,.1f} GiB of shards, and its disk has room for "
                f"{(here + free) / 2**30:,.1f}: set a smaller data.cache_gib, or data.cache_folder on another disk"
            )

    def _download(self, shard: Shard, part: Path) -> None:
        self._make_room(shard, part)
        start = _size(part)
        if start < shard.state.size:
            with part.open("ab") as file:
                for chunk in self.storage.chunks(shard.url, start, shard.state.size):
                    with naming(part):  # a full disk says where
                        file.write(chunk)
        size = _size(part)
        if size < shard.state.size:
            raise OSError(f"it broke off after {size:,} of {shard.state.size:,} bytes")
        if size > shard.state.size or self.storage.state(shard.url) != shard.state:
            part.unlink()
            raise UserError(f"the shard {shown(shard.url)} is another one than at the start: start the run again")
        if shard.sha256 and _sha256(part) != shard.sha256:
            part.unlink()
            raise OSError("its bytes are not those of its index (SHA-256)")
        part.rename(self.path(shard))

    def _make_room(self, shard: Shard, part: Path) -> None:
        """Take the least recently used away, and keep the place of `part`. OSError: others are fetching too much."""
        with FileLock(self.folder / "room.lock"):
            held = sorted(each for each in self._held() if each[2] != part)
            excess = sum(size for _, size, _ in held) + shard.state.size - self.bound
            for _, size, path in held:
                if excess <= 0:
                    break
                if path.suffix != ".part" or not _is_locked(path.with_suffix(".lock")):
                    path.unlink(missing_ok=True)
                    excess -= size
            if excess > 0:
                raise OSError("data.cache_gib leaves no room beside what other processes are fetching")
            part.touch()

    def _held(self) -> list[tuple[float, int, Path]]:
        """Time of last use, bytes (of a download those that it will have) and path of each file."""
        found = []
        for path in self.folder.iterdir():
            ours = OURS.fullmatch(path.name)
            with suppress(FileNotFoundError):
                if ours:
                    found.append((path.stat().st_mtime, int(ours["size"]), path))
        return found


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_locked(path: Path) -> bool:
    """Whether somebody is fetching what this lock is of."""
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
