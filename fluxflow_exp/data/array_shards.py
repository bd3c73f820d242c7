"""Arrays in numbered files that are written once, in any order and by several processes, and then mapped into memory.

`00000.npy` holds a shard's array, `00000.json` the record that belongs to it. A shard is whole when both are there.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
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
        have = {path.name for path in self.folder.glob("*")}
        names = [(f"{number:05d}.npy", f"{number:05d}.json") for number in range(self.count)]
        return [number for number, both in enumerate(names) if not have.issuperset(both)]

    def write(self, number: int, array: NDArray[Any], record: Any) -> None:
        """Make a shard, durably."""
        files.write_atomically(self._path(number, "npy"), partial(files.write_stream, write=partial(_save, array)))
        files.write_json(self._path(number, "json"), record)

    def tidy(self) -> None:
        """Take away what killed writers have left."""
        for path in self.folder.glob("tmp-*"):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)

    def record(self, number: int) -> Any:
        return files.read_json(self._path(number, "json"))

    def array(self, number: int) -> NDArray[Any]:
        """Mapped into memory, not to be written to."""
        found = self._arrays[number]
        if found is None:
            found = self._arrays[number] = _mapped(self._path(number, "npy"))
        return found

    def _path(self, number: int, extension: str) -> Path:
        return self.folder / f"{number:05d}.{extension}"


def _save(array: NDArray[Any], sink: files.Sink) -> None:
    np.save(cast(Any, sink), array)


def _mapped(path: Path) -> NDArray[Any]:
    """A file of `np.save`. NumPy's own mapping would keep a file open for each of what may be thousands of shards."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
    whole = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8).numpy()
    values: NDArray[Any] = whole[start:].view(dtype).reshape(shape)
    return values
