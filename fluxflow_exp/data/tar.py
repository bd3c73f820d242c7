"""Tar shards: an index of local ones, the samples of one that is streamed, and image and caption among its members.

Members whose names agree up to the first dot of the last path element are one sample (webdataset's convention).
"""

import http.client
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from fluxflow_exp.data.caption_choice import WEIGHT, weight_of, weights_of
from fluxflow_exp.data.captions import decoded, prefixed, surrogate_in
from fluxflow_exp.data.decoding import EXTENSIONS, check_regular
from fluxflow_exp.data.protocols import Bad
from fluxflow_exp.errors import UserError, counted, few

SHOWN = 5  # names of members in a reason
LARGEST = 2**30  # bytes of a member that is read
IMPOSSIBLE = 2**40  # bytes: more than a shard has


M = TypeVar("M")


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


class Keys:
    """Which members of a sample are its image and its caption."""

    def __init__(self, image_key: str | None, label_key: str, caption_key: str | None, prefix: str | None) -> None:
        self.images = tuple(image_key.lower().split(";")) if image_key else EXTENSIONS
        self.label, self.caption_key, self.prefix = label_key.lower(), caption_key, prefix
        self.wanted = f"image member ({', '.join(self.images)})" if image_key else "image member"

    def image_of(self, members: dict[str, Any]) -> Any:
        """ValueError: there is none, or none that can be used."""
        return _usable(members, self.images, self.wanted)

    def captions_of(self, members: dict[str, Any], read: Any) -> list[tuple[str, float]]:
        """The captions with their weights; `read` gives a member's bytes. ValueError: there is none to be read."""
        member = _usable(members, (self.label,), f"caption member {self.label}")
        try:
            text = decoded(read(member))
            fields = None if self.caption_key is None else json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"its {self.label} member cannot be read: {error}") from error
        if self.caption_key is None:
            return [(self._caption(text), 1.0)]
        fields = fields if isinstance(fields, dict) else {}
        found = fields.get(self.caption_key)
        texts = found if isinstance(found, list) else [found]
        if not texts or not all(isinstance(each, str) for each in texts):
            raise ValueError(f"no text in the field {self.caption_key!r} of its {self.label} member")
        weight = fields.get(WEIGHT)
        weights = weights_of(weight, len(texts)) if texts is found else [weight_of(weight)]
        return [(self._caption(each), weight) for each, weight in zip(texts, weights, strict=True)]

    def _caption(self, text: str) -> str:
        caption = " ".join(text.split())
        if not caption:
            raise ValueError("an empty caption")
        broken = surrogate_in(caption)
        if broken:
            raise ValueError(f"its caption holds {broken}")
        return prefixed(caption, self.prefix)


def _usable(members: dict[str, Any], extensions: tuple[str, ...], wanted: str) -> Any:
    """The first of `members` with one of these extensions. ValueError: there is none, or it cannot be used."""
    for extension in extensions:
        if extension in members:
            member = members[extension]
            if isinstance(member, Unusable):
                raise ValueError(f"its {extension} member {member}")
            return member
    names = sorted(members)
    shown = few([name[:40] for name in names], SHOWN)
    dotted = next((name for name in names if name.rpartition(".")[2] in extensions), None)
    hint = f"; a sample's name ends at its first dot, so that {dotted[:40]} is an extension" if dotted else ""
    raise ValueError(f"no {wanted} among {shown}{hint}")


def index(shard: Path) -> tuple[dict[str, dict[str, Member | Unusable]], Bad]:
    """Key → extension → member of a local shard, in its order; and what is wrong with it. OSError: unreadable."""
    check_regular(shard)
    return index_of(shard, shard.name, lambda info: Member(shard, info.offset_data, info.size))


def index_of(
    shard: Path | IO[bytes], name: str, member: Callable[[tarfile.TarInfo], M]
) -> tuple[dict[str, dict[str, M | Unusable]], Bad]:
    """The same of a shard called `name`, a path or a file that seeks, of members that `member` makes."""
    found: dict[str, dict[str, M | Unusable]] = {}
    bad: Bad = []
    try:
        for _, info in _files(shard, "r:"):
            key, extension = split_name(info.name)
            members = found.setdefault(key, {})
            members[extension] = _fault(info, extension in members) or member(info)
    except tarfile.TarError as error:
        bad.append((name, f"the shard is damaged after {counted(len(found), 'sample')}: {error}"))
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


def _files(source: Path | _Ended | IO[bytes], mode: Any) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
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
    except (OSError, http.client.HTTPException, tarfile.TarError, UserError):
        raise
    except Exception as error:
        raise tarfile.ReadError(f"{type(error).__name__}: {error}") from error


def _fault(info: tarfile.TarInfo, twice: bool) -> Unusable | None:
    if twice:
        return TWICE
    if info.issparse():
        return Unusable("is a sparse file")
    return Unusable(f"has {info.size:,} bytes, more than 1 GiB") if info.size > LARGEST else None
