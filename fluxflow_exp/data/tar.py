"""Tar shards: an index of local ones, and the samples of one that is streamed.

Members whose names agree up to the first dot of the last path element are one sample (webdataset's convention).
"""

import http.client
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from fluxflow_exp.data.decoding import check_regular

LARGEST = 2**30  # bytes of a member that is read
IMPOSSIBLE = 2**40  # bytes: more than a shard has

Bad = list[tuple[str, str]]  # (id, reason)


class Unusable(str):
    """Why a member cannot be used, in the place of its bytes."""


TWICE = Unusable("stands twice in the shard")


class Member(NamedTuple):
    """Where a file's bytes are within a local shard."""

    shard: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """OSError: the shard ends before its size says."""
        with self.shard.open("rb") as file:
            if self.offset + self.size > os.fstat(file.fileno()).st_size:
                raise OSError("the shard is truncated here")
            file.seek(self.offset)
            return file.read(self.size)


def index(shard: Path) -> tuple[dict[str, dict[str, Member | Unusable]], Bad]:
    """Key → extension → member of a local shard, in its order; and what is wrong with it. OSError: unreadable."""
    found: dict[str, dict[str, Member | Unusable]] = {}
    bad: Bad = []
    check_regular(shard)
    try:
        for _, info in _files(shard, "r:"):
            key, extension = split_name(info.name)
            members = found.setdefault(key, {})
            known = _fault(info, extension in members)
            members[extension] = known or Member(shard, info.offset_data, info.size)
    except tarfile.TarError as error:
        bad.append((shard.name, f"the shard is damaged after {len(found)} samples: {error}"))
    return found, bad


def stream(file: IO[bytes]) -> Iterator[tuple[str, dict[str, bytes | Unusable]]]:
    """Key and members of each sample of an archive that is read once from front to back.

    OSError or tarfile.TarError: it breaks off; the sample that it breaks off in is lost.
    """
    current = ""
    members: dict[str, bytes | Unusable] = {}
    for archive, info in _files(_Ended(file), "r|"):
        key, extension = split_name(info.name)
        if key != current and members:
            yield current, members
            members = {}
        current = key
        fault = _fault(info, extension in members)
        if fault:
            members[extension] = fault
            continue
        content = archive.extractfile(info)
        assert content is not None
        members[extension] = content.read()
    if members:
        yield current, members


def split_name(name: str) -> tuple[str, str]:
    """ "a/b.seg.png" → ("a/b", "seg.png"), the extension in lower case."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


class _Ended:
    """A stream that cannot be read on for ever behind its end, where a header says that much is still to come."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, 16

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.left -= not data
        if not self.left:
            raise tarfile.ReadError("unexpected end of data")
        return data


def _files(source: Path | _Ended, mode: Any) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The archive and each file in it; names that are not UTF-8 have backslashes in them.

    tarfile.TarError: it is damaged, whatever its headers make Python raise. OSError, HTTPException: of reading.
    """
    where: dict[str, Any] = {"name": source} if isinstance(source, Path) else {"fileobj": source}
    try:
        with tarfile.open(**where, mode=mode, encoding="utf-8", errors="backslashreplace") as archive:
            for info in archive:
                if not 0 <= info.size < IMPOSSIBLE:  # below 0 the next header is sought before this one, for ever
                    raise tarfile.ReadError(f"a member of {info.size} bytes")
                if info.isfile():
                    yield archive, info
    except (OSError, http.client.HTTPException, tarfile.TarError):
        raise
    except Exception as error:
        raise tarfile.ReadError(f"{type(error).__name__}: {error}") from error


def _fault(info: tarfile.TarInfo, twice: bool) -> Unusable | None:
    if twice:
        return TWICE
    if info.issparse():
        return Unusable("is a sparse file")
    return Unusable(f"has {info.size:,} bytes, more than 1 GiB") if info.size > LARGEST else None
