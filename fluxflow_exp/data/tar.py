"""Tar shards: an index of local ones, and the samples of one that is streamed.

Members whose names agree up to the first dot of the last path element are one sample (webdataset's convention).
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

Bad = list[tuple[str, str]]  # (id, reason)


class Member(NamedTuple):
    """Where a file's bytes are within a local shard."""

    shard: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """OSError: the shard ends before its size says."""
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise OSError("the shard is truncated here")
        return data


def index(shard: Path) -> tuple[dict[str, dict[str, Member]], Bad]:
    """Key → extension → member of a local shard, in its order; and what is wrong with it. OSError: unreadable."""
    found: dict[str, dict[str, Member]] = {}
    bad: Bad = []
    try:
        with tarfile.open(shard, "r:") as archive:
            for info in archive:
                if info.isfile():
                    key, extension = split_name(info.name)
                    found.setdefault(key, {})[extension] = Member(shard, info.offset_data, info.size)
    except tarfile.TarError as error:
        bad.append((shard.name, f"the shard is damaged after {len(found)} samples: {error}"))
    return found, bad


def stream(file: IO[bytes]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and members of each sample of an archive that is read once from front to back.

    OSError or tarfile.TarError: it breaks off; the sample that it breaks off in is lost.
    """
    current = ""
    members: dict[str, bytes] = {}
    with tarfile.open(fileobj=file, mode="r|") as archive:
        for info in archive:
            if not info.isfile():
                continue
            key, extension = split_name(info.name)
            if key != current and members:
                yield current, members
                members = {}
            current = key
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
