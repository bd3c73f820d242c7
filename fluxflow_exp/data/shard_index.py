"""Where the samples of a shard are, in a file: `python -m fluxflow_exp.data.shard_index SHARD …`.

SHARD.index.json lies beside its shard and goes with it into object storage, so that nothing else is read before
training. WebDataset's own index (wids) has no offsets. What has no such file is indexed by its headers.
"""

import argparse
import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from fluxflow_exp.data import tar
from fluxflow_exp.data.decoding import check_regular
from fluxflow_exp.errors import UserError, counted
from fluxflow_exp.files import write_text
from fluxflow_exp.run import failures

SUFFIX, FORMAT = ".index.json", 1
TEXTS = ("txt", "json")  # members whose text an index has that is written for any use
LARGEST_TEXT = 1 << 20  # bytes
USUAL = {b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname", b"comment"}  # what changes no member


class Place(NamedTuple):
    """Where a member is in its shard, and what it says, of one that is wanted as text."""

    offset: int
    size: int
    text: str | None = None  # bytes that are not UTF-8 are surrogates

    def read(self) -> bytes:
        """ValueError: an index that was made for another use does not have it."""
        if self.text is None:
            raise ValueError("not in the index")
        return self.text.encode("utf-8", "surrogateescape")


class Index(NamedTuple):
    """What a shard of `size` bytes holds: key → extension → place."""

    size: int
    samples: dict[str, dict[str, Place | tar.Unusable]]
    damage: str | None = None  # why it ends early
    sha256: str | None = None

    def dumped(self) -> str:
        samples = [[key, {name: _plain(place) for name, place in each.items()}] for key, each in self.samples.items()]
        whole = {"format": FORMAT, "size": self.size, "sha256": self.sha256, "damage": self.damage, "samples": samples}
        return json.dumps(whole, separators=(",", ":"))

    def has_texts(self, extension: str) -> bool:
        """Whether all members of this extension have their text."""
        places = (each.get(extension) for each in self.samples.values())
        return all(place.text is not None for place in places if isinstance(place, Place))


class Parts(Protocol):
    """A file, any part of it."""

    size: int

    def at(self, offset: int, size: int) -> bytes: ...


def loaded(data: bytes) -> Index:
    """What `dumped` has written. ValueError: it is none."""
    try:
        found = json.loads(data)
        if found["format"] != FORMAT:
            raise ValueError(f"an index of format {found['format']}, not {FORMAT}")
        samples = {key: {name: _place(each) for name, each in members.items()} for key, members in found["samples"]}
        return Index(int(found["size"]), samples, found["damage"], found["sha256"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no index of a shard ({type(error).__name__}: {error})") from error


def of_headers(file: Parts, name: str, texts: tuple[str, ...]) -> Index:
    """Read the headers of a shard, and its members of the extensions `texts`."""
    try:
        return Index(file.size, _usual(file, texts))
    except (_UnusualError, ValueError):  # rare kinds of headers, and damage, are left to tarfile
        reader: Any = _Seeking(file)

    def member(info: tarfile.TarInfo) -> Place:
        wanted = tar.split_name(info.name)[1] in texts and info.size <= LARGEST_TEXT
        return Place(info.offset_data, info.size, _text(file.at(info.offset_data, info.size)) if wanted else None)

    samples, bad = tar.index_of(reader, name, member)
    return Index(file.size, samples, bad[0][1] if bad else None)


class _UnusualError(Exception):
    """A header that is not of the plainest kinds."""


def _usual(file: Parts, texts: tuple[str, ...]) -> dict[str, dict[str, Place | tar.Unusable]]:
    """Fifty times as fast as tarfile, of what webdataset, GNU tar and Python write of files with short names."""
    samples: dict[str, dict[str, Place | tar.Unusable]] = {}
    for name, offset, size in _regular(file):
        if size > tar.LARGEST or offset + size > file.size:
            raise _UnusualError
        key, extension = tar.split_name(name)
        text = _text(file.at(offset, size)) if extension in texts and size <= LARGEST_TEXT else None
        members = samples.setdefault(key, {})
        members[extension] = tar.TWICE if extension in members else Place(offset, size, text)
    return samples


def _regular(file: Parts) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each file of an archive."""
    offset = 0
    while True:
        head = file.at(offset, 512)
        if not head.strip(b"\0") and (len(head) == 512 or offset == file.size) and offset:
            return
        if len(head) < 512 or sum(head) - sum(head[148:156]) + 256 != int(head[148:156].strip(b" \0"), 8):
            raise _UnusualError
        kind, size = head[156:157], int(head[124:136].strip(b" \0"), 8)
        if kind == b"x":
            records = file.at(offset + 512, size).split(b"\n")[:-1]
            if not {each.partition(b" ")[2].partition(b"=")[0] for each in records} <= USUAL:
                raise _UnusualError
        elif kind in (b"0", b"\0"):
            folder = head[345:500].partition(b"\0")[0] if head[257:263] == b"ustar\0" else b""
            name = head[:100].partition(b"\0")[0]
            if name.endswith(b"/"):  # an old way to say that it is a folder
                raise _UnusualError
            yield (folder + b"/" + name if folder else name).decode(), offset + 512, size
        elif kind != b"5":
            raise _UnusualError
        offset += 512 + (-(-size // 512) * 512 if kind != b"5" else 0)


class _Seeking(io.RawIOBase):
    """`Parts` for tarfile."""

    def __init__(self, file: Parts) -> None:
        self.file, self.place = file, 0

    def read(self, size: int = -1) -> bytes:
        size = self.file.size - self.place if size < 0 else max(min(size, self.file.size - self.place), 0)
        data = self.file.at(self.place, size) if size else b""
        self.place += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self.place = offset + (0, self.place, self.file.size)[whence]
        return self.place

    def tell(self) -> int:
        return self.place


class OfDisk:
    """`Parts` of a file on this machine, open until it is closed."""

    def __init__(self, path: Path) -> None:
        check_regular(path)
        self.file, self.size = path.open("rb"), path.stat().st_size

    def at(self, offset: int, size: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(size)


def write(shard: Path) -> int:
    """Write SHARD.index.json, with the digest of the shard; how many samples it has. UserError: it is damaged."""
    file = OfDisk(shard)
    with file.file:
        found = of_headers(file, shard.name, TEXTS)
        file.file.seek(0)
        digest = hashlib.file_digest(file.file, "sha256").hexdigest()
    if found.damage:
        raise UserError(f"{shard}: {found.damage}")
    write_text(shard.with_name(shard.name + SUFFIX), found._replace(sha256=digest).dumped())
    return len(found.samples)


@failures.command
def cli() -> None:
    made = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.data.shard_index",
        description="Write SHARD.index.json beside each shard: to be uploaded with it, so that a run starts at once.",
    )
    made.add_argument("shards", type=Path, nargs="+", help="tar files")
    shards = made.parse_args().shards
    samples = sum(write(shard) for shard in shards)
    print(f"{counted(samples, 'sample')} in {counted(len(shards), 'shard')} have an index beside them")


def _plain(place: Place | tar.Unusable) -> Any:
    return place if isinstance(place, str) else list(place if place.text is not None else place[:2])


def _place(found: Any) -> Place | tar.Unusable:
    return tar.Unusable(found) if isinstance(found, str) else Place(*found)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


if __name__ == "__main__":
    sys.exit(cli())
