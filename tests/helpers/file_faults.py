"""File operations of a child counted, and one of them made to kill it or to fail, by the preloaded `file_faults.c`.

CPython, torch, safetensors and Pillow all reach the disk through libc, so that nothing escapes. A child is forked
from the server of tests/helpers/children.py, which has the library loaded: a replay imports nothing.
"""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

READS, ONCE, HALF = 1, 2, 4  # flags of file_faults.c
needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None, reason="there is no C compiler (cc) for tests/helpers/file_faults.c"
)


class Operation(NamedTuple):
    number: int  # from 1, in the order of the process
    kind: (
        str  # write, copy, open, rename, link, unlink, mkdir, rmdir, fsync, truncate, allocate, attributes; read, open
    )
    bytes: int  # asked for, of a write or a copy; parts of a writev
    path: Path


@dataclass(frozen=True)
class FileFault:
    """Given to `children.start` and its like: counts the child's file operations below `roots` (real paths).

    At operation `at` (None: only count) the child is killed, or with an `error` (errno) that one and all later ones
    fail; what frees space does not fail for the lack of it. `once`: later ones succeed. `half`: a write or copy does
    a part of its work first, as on a disk that has just run full. `log`: a file, outside the roots, that lists the
    operations. By default those that change a disk are counted, with `reads` instead those that read and look.
    """

    roots: tuple[Path, ...]
    at: int | None = None
    error: int | None = None
    log: Path | None = None
    reads: bool = False
    once: bool = False
    half: bool = False

    def __call__(self) -> None:
        log = os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC) if self.log else -1
        flags = READS * self.reads | ONCE * self.once | HALF * self.half
        roots = "\n".join(map(os.fspath, self.roots)).encode()
        ctypes.CDLL(None).file_faults_arm(roots, ctypes.c_long(self.at or 0), self.error or 0, flags, log)


def operations(log: Path) -> list[Operation]:
    """What a FileFault with this `log` has counted."""
    lines = [line.split(" ", 3) for line in log.read_text().splitlines()]
    return [Operation(int(number), kind, int(size), Path(path)) for number, kind, size, path in lines]


@functools.cache
def library() -> Path | None:
    """The library, compiled once a process; None without a compiler."""
    if shutil.which("cc") is None:
        return None
    folder = tempfile.TemporaryDirectory(prefix="file_faults")
    _kept.append(folder)
    made = Path(folder.name) / "file_faults.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", made, source, "-ldl"], check=True)
    return made


_kept: list[tempfile.TemporaryDirectory[str]] = []
