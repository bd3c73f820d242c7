"""Arrays in numbered files that are written once, in any order and by several processes, and then mapped into memory.

`00000.npy` holds a shard's array, `00000.json` the record that belongs to it. The record is written last, so that a
shard is whole when its record is there.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxflow_exp import files

STALE_SECONDS = 3600.0  # what has a temporary name for so long belongs to a writer that was killed


class ArrayShards:
    """`count` shards in `folder`."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self._arrays: list[NDArray[Any] | None] = [None] * count

    def missing(self) -> list[int]:
        """The shards that have not been written."""
        have = {path.name for path in self.folder.glob("*.json")}
        return [number for number in range(self.count) if f"{number:05d}.json" not in have]

    def write(self, number: int, array: NDArray[Any], record: Any) -> None:
        """Make a shard, durably."""
        files.write_atomically(self._path(number, "npy"), lambda temporary: np.save(temporary, array))
        files.write_json(self._path(number, "json"), record)

    def tidy(self) -> None:
        """Take away what killed writers have left."""
        for path in self.folder.glob("tmp-*"):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)

    def record(self, number: int) -> Any:
        return files.read_json(self._path(number, "json"))

    def array(self, number: int) -> NDArray[Any]:
        """Mapped into memory; read-only."""
        found = self._arrays[number]
        if found is None:
            found = self._arrays[number] = np.load(self._path(number, "npy"), mmap_mode="r")
        return found

    def _path(self, number: int, extension: str) -> Path:
        return self.folder / f"{number:05d}.{extension}"
