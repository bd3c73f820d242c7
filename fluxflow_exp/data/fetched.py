"""Shards of object storage, read by index from a bounded cache.

The order of an epoch shuffles the shards, and samples within blocks of `shuffle_shards` of them, so that no more than
three blocks are needed at a time: it is a function of (seed, epoch), whoever reads and however large the cache is.
"""

import gc
import math
import os
import random
import threading
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from rich.progress import track

from fluxflow_exp.data import several_captions, shard_index
from fluxflow_exp.data.images import Entry, Images, ImageTransform
from fluxflow_exp.data.object_storage import MissingError, State, Storage, patiently
from fluxflow_exp.data.protocols import Bad, digest
from fluxflow_exp.data.shard_cache import Shard, ShardCache
from fluxflow_exp.data.shard_index import Index, Place
from fluxflow_exp.data.stream import shown
from fluxflow_exp.data.tar import Keys
from fluxflow_exp.errors import counted
from fluxflow_exp.files import write_text
from fluxflow_exp.seeding import derive, generator

BLOCKS = 3  # of which a cache has room: readers may be in two of them, and the next is on its way
CONNECTIONS = 16  # while shards are indexed
FIRST_BLOCK, LAST_BLOCK = 64 << 10, 4 << 20  # bytes that are read at once: twice as many each time that they follow


class Piece(NamedTuple):
    """Where a file's bytes are within a shard of object storage."""

    shard: Shard
    offset: int
    size: int


class FetchedImages(Images):
    """`entries`, whose places are `Piece`s in the order of their shards."""

    def __init__(self, entries: list[Entry], cache: ShardCache, transform: ImageTransform, *, together: int) -> None:
        super().__init__(entries, partial(file_of, cache), transform, state_of=state_of)
        self.cache, self.together = cache, together
        self.shards: list[Shard] = []
        self.starts: list[int] = []
        for shard, pieces in groupby(range(len(entries)), lambda index: entries[index].place.shard):
            self.shards.append(shard)
            self.starts.append(next(pieces))
        self.starts.append(len(entries))
        self.bytes = sum(shard.state.size for shard in self.shards)
        self._ahead: tuple[int | None, int, dict[int, int]] | None = None  # block of each shard in an epoch
        self._at: tuple[int, int] | None = None  # process and block

    @property
    def whole(self) -> bool:
        """Whether all shards find room in the cache."""
        return self.bytes <= self.cache.bound

    def notes(self) -> list[str]:
        """How much is going to be fetched. ValueError: the cache is too small, or its disk."""
        sizes = sorted((shard.state.size for shard in self.shards), reverse=True)
        needed = sum(sizes[: BLOCKS * self.together])
        if needed > self.cache.bound:
            raise ValueError(
                f"cache_gib={self.cache.gib:g} is too little for the {BLOCKS * self.together} shards that "
                f"may be needed at a time: set {_gib(needed)} or more, or a smaller data.shuffle_shards"
            )
        self.cache.check_room(min(self.bytes, self.cache.bound))
        again = "" if self.whole else ", and the rest again each epoch (a larger data.cache_gib keeps more)"
        return [
            f"{counted(len(self.shards), 'shard')} of {_gib(self.bytes)} GiB: "
            f"{_gib(self.cache.missing(self.shards))} GiB are to be fetched into "
            f"{self.cache.folder}, where at most {self.cache.gib:g} stay{again}"
        ]

    def order(self, *, seed: int, epoch: int) -> list[int]:
        """The permutation of the indices for an epoch."""
        found: list[int] = []
        for number, block in enumerate(self._blocks(seed, epoch)):
            members = [index for each in block for index in range(self.starts[each], self.starts[each + 1])]
            shuffled = torch.randperm(len(members), generator=generator(seed, "order", epoch, number)).tolist()
            found += [members[place] for place in shuffled]
        return found

    def coming(self, index: int, *, seed: int | None = None, epoch: int = 0) -> None:
        """`index` is read next: fetch its block and the one behind it, in the order of an epoch or of the indices."""
        if self._ahead is None or self._ahead[:2] != (seed, epoch):
            blocks = self._blocks(seed, epoch)
            self._ahead = seed, epoch, {shard: number for number, block in enumerate(blocks) for shard in block}
            self._at = None
        number = self._ahead[2][bisect_right(self.starts, index) - 1]
        if self._at == (os.getpid(), number):
            return
        self._at = os.getpid(), number  # threads do not go along into a forked process
        blocks = self._blocks(seed, epoch)[number : number + 2]
        if len(blocks) == 1:
            blocks += self._blocks(seed, epoch + 1)[:1]
        wanted = [self.shards[each] for block in blocks for each in block]
        threading.Thread(target=self.cache.fetch_ahead, args=(wanted,), daemon=True).start()

    def _blocks(self, seed: int | None, epoch: int) -> list[list[int]]:
        shards = list(range(len(self.shards)))
        if seed is not None:
            random.Random(derive(seed, "shards", epoch)).shuffle(shards)
        return [shards[i : i + self.together] for i in range(0, len(shards), self.together)]


def entries(urls: list[str], cache: ShardCache, keys: Keys, bad: Bad) -> list[Entry]:
    """The samples of these shards, in order; those that are none, and damage, are added to `bad`."""
    found = []
    with _without_collection():
        for shard, index in indexed(urls, cache, keys.label):
            if index.damage:
                bad.append((shard.name, index.damage))
            for entry in several_captions.of_shard(shard.name, index.samples, keys, Place.read, bad):
                found.append(entry._replace(place=Piece(shard, entry.place.offset, entry.place.size)))
    return found


def in_memory(entries: list[Entry], cache: ShardCache) -> list[Entry]:
    """`entries` with their bytes as places: what is held out is needed again and again."""
    return [entry._replace(place=cache.read(*entry.place)) for entry in entries]


def file_of(cache: ShardCache, place: Piece | bytes) -> BytesIO:
    return BytesIO(place if isinstance(place, bytes) else cache.read(*place))


def state_of(place: Piece) -> Any:
    """As of a local shard, so that data that is fetched counts as the same."""
    return place.offset, place.size, tuple(place.shard.state)


def indexed(urls: list[str], cache: ShardCache, label: str) -> Iterator[tuple[Shard, Index]]:
    """Each shard with its index, in this order: kept, or from beside the shard, or from its headers.

    UserError: one cannot be read.
    """
    folder = cache.folder / "indices"
    folder.mkdir(parents=True, exist_ok=True)
    with (
        FileLock(folder / f"{digest(urls)[:16]}.lock"),  # the others on this host find what the first has made
        ThreadPoolExecutor(CONNECTIONS) as pool,
    ):
        found = pool.map(lambda url: _index(url, cache.storage, folder, label), urls)
        yield from track(found, total=len(urls), description="Indexing shards")


def _index(url: str, storage: Storage, folder: Path, label: str) -> tuple[Shard, Index]:
    state = patiently(f"cannot read the shard {shown(url)}", lambda: storage.state(url))
    kept = folder / f"{Shard(url, state).stem}.{digest([label])[:8]}.json"
    try:
        index = shard_index.loaded(kept.read_bytes())
    except (OSError, ValueError):  # none, or one of another version
        index = _beside(url, state, storage, label) or _of_headers(url, state, storage, label)
        write_text(kept, index.dumped())
    return Shard(url, state, index.sha256), index


def _beside(url: str, state: State, storage: Storage, label: str) -> Index | None:
    """The index that lies beside a shard; None: there is none, or one that lacks the captions."""
    if "?" in url:  # signed for this file alone
        return None

    def read() -> bytes | None:
        try:
            return storage.read(url + shard_index.SUFFIX)
        except MissingError:
            return None

    data = patiently(f"cannot read {shown(url)}{shard_index.SUFFIX}", read)
    if data is None:
        return None
    try:
        found = shard_index.loaded(data)
    except ValueError as error:
        raise ValueError(f"urls: {shown(url)}{shard_index.SUFFIX} is {error}: write it again, or remove it") from error
    if found.size != state.size:
        raise ValueError(
            f"urls: {shown(url)}{shard_index.SUFFIX} is of a shard of {found.size:,} bytes, and this one has "
            f"{state.size:,}: write it again (python -m fluxflow_exp.data.shard_index), or remove it"
        )
    return found if found.has_texts(label) else None


def _of_headers(url: str, state: State, storage: Storage, label: str) -> Index:
    return shard_index.of_headers(_Ranges(url, state, storage), Shard(url, state).name, (label,))


class _Ranges:
    """Any part of a file of object storage, with a block of it kept."""

    def __init__(self, url: str, state: State, storage: Storage) -> None:
        self.url, self.size, self.storage = url, state.size, storage
        self.start, self.data, self.block = 0, b"", FIRST_BLOCK

    def at(self, offset: int, size: int) -> bytes:
        begin = offset - self.start
        if begin >= 0 and begin + size <= len(self.data):
            return self.data[begin : begin + size]
        if offset >= self.size:
            return b""
        follows = 0 <= begin <= len(self.data)
        self.block = min(self.block * 2, LAST_BLOCK) if follows and self.data else FIRST_BLOCK
        wanted = min(max(size, self.block), self.size - offset)
        self.data = patiently(f"cannot read the shard {shown(self.url)}", lambda: self._read(offset, wanted))
        self.start = offset
        return self.data[:size]

    def _read(self, offset: int, size: int) -> bytes:
        data = self.storage.read(self.url, offset, size)
        if len(data) < size:
            raise OSError(f"{len(data):,} bytes came of {size:,}")
        return data


@contextmanager
def _without_collection() -> Iterator[None]:
    """Millions of small tuples are made, which Python would look through again and again for circles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _gib(count: int) -> str:
    """Rounded up, so that it is enough."""
    return (
        f"{math.ceil(count / 2**30 * 1000) / 1000:,.3g}" if count < 2**30 else f"{math.ceil(count / 2**30 * 10) / 10:,}"
    )
