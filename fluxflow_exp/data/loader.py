"""From a source to batches: order, augmentation and replacement of bad samples are functions of position.

For data with an index nothing here depends on the number of worker processes, so that a run continues the same on
another machine; a stream has to keep it within an epoch.
"""

import os
import random
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from fluxflow_exp.data.prefetch import pinned, read_ahead
from fluxflow_exp.data.protocols import (
    Bad,
    BadSampleError,
    Fetching,
    Indexed,
    Ordered,
    Rows,
    Sample,
    Source,
    Stored,
    Stream,
    Tokens,
    check_sample,
)
from fluxflow_exp.data.workers import reading
from fluxflow_exp.errors import UserError, counted
from fluxflow_exp.seeding import derive, generator

MAX_ATTEMPTS = 100

Key = tuple[int, int]  # epoch, index


class Batch(NamedTuple):
    images: Tensor  # uint8 (batch, 3, height, width), or the values (batch, channels, h, w) of a `Stored`
    captions: list[str]
    ids: list[str]
    bad: Bad  # met while this batch was filled
    tokens: Tokens | None = None  # of the captions, if the source has them
    features: Tensor | None = None  # of a teacher, if the source has them


def updates_per_epoch(source: Indexed | Stream, batch_size: int) -> int:
    """Whole batches in an epoch. UserError: the set is smaller than one."""
    if isinstance(source, Stream):
        count = source.epoch_size // batch_size
    else:
        count = sum(len(members) // batch_size for members in groups_of(source).values())
    if count == 0:
        shaped = " of one shape" if not isinstance(source, Stream) and len(groups_of(source)) > 1 else ""
        raise UserError(
            f"the training set has {counted(len(source), 'sample')}, fewer than a batch of {batch_size}{shaped}"
        )
    return count


def groups_of(source: Indexed) -> dict[Any, list[int]]:
    """Indices by shape; one group where all samples have the same."""
    groups = source.groups
    if groups is None:
        return {None: list(range(len(source)))}
    found: dict[Any, list[int]] = {}
    for index, group in enumerate(groups):
        found.setdefault(group, []).append(index)
    return found


def order(n: int, *, seed: int, epoch: int) -> list[int]:
    """The permutation of range(n) for an epoch."""
    shuffled: list[int] = torch.randperm(n, generator=generator(seed, "order", epoch)).tolist()
    return shuffled


def epoch_batches(source: Indexed, batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """The batches of an epoch: each of one group, groups mixed; what does not fill a batch is left out."""
    at = {"seed": seed, "epoch": epoch}
    shuffled = source.order(**at) if isinstance(source, Ordered) else order(len(source), **at)
    groups = source.groups
    if groups is None:
        return [shuffled[i : i + batch_size] for i in range(0, len(shuffled) - batch_size + 1, batch_size)]
    waiting: dict[Any, list[int]] = {}
    found = []
    for index in shuffled:  # a batch stands where its last sample did, so that shapes are mixed as evenly as samples
        members = waiting.setdefault(groups[index], [])
        members.append(index)
        if len(members) == batch_size:
            found.append(members[:])
            members.clear()
    return found


def load_batches(source: Source | Stored | Stream, **how: Any) -> Generator[Batch]:
    """The batches of `begin_batches`, which takes the same arguments; nothing is read before the first is asked for.

    Whoever does not read to the end closes the generator, which ends its workers.
    """
    with begin_batches(source, **how) as batches:
        yield from batches


@contextmanager
def begin_batches(
    source: Source | Stored | Stream,
    *,
    seed: int,
    batch_size: int,
    first_update: int,
    last_update: int,
    num_workers: int,
    pin_memory: bool,
    rank: int = 0,
    ranks: int = 1,
    image_bytes: int = 0,
) -> Iterator[Iterator[Batch]]:
    """The batches of updates [first_update, last_update), over as many epochs as that takes; workers begin at once.

    Of several ranks each gets its equal share of every batch, in order. `image_bytes`: of one image, if it is known.
    UserError: so many samples in a row are bad that no replacement was found, or a worker failed. ValueError: the batch
    does not divide by the ranks.
    """
    if batch_size % ranks:
        raise ValueError(f"a batch of {batch_size} does not divide by {ranks} ranks")
    share = batch_size // ranks
    how: dict[str, Any]
    if isinstance(source, Stream):
        per_epoch = updates_per_epoch(source, batch_size)
        slots = Slots(rank, ranks, max(num_workers, 1))
        if slots.ranks * slots.workers > source.max_readers:
            raise UserError(
                f"{slots.ranks * slots.workers} readers share {source.max_readers} streamed shards, so that some would "
                f"have none: set hardware.num_workers to {source.max_readers // ranks} or less"
            )
        how = {
            "dataset": _Streaming(source, seed, share, range(first_update, last_update), per_epoch, slots),
            "batch_size": None,
        }
    else:
        positions = _Positions(source, seed, batch_size, first_update, last_update)
        positions.rows = slice(rank * share, (rank + 1) * share)
        if isinstance(source, Stored):
            reader = _RowReader(source, seed, pin_memory=pin_memory)
            yield _batches(read_ahead(reader, positions, gpu=pin_memory), share)
            return
        how = {"dataset": _Reader(source, seed), "batch_sampler": positions, "collate_fn": _collate}
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # ranks that share this machine's memory
    how |= {"num_workers": num_workers, "pin_memory": pin_memory}
    with reading(**how, batch_bytes=here * share * image_bytes) as found:
        yield _batches(found, share)


def _batches(read: Iterable[tuple[Rows, Bad]], share: int) -> Iterator[Batch]:
    for rows, bad in read:
        if len(rows.ids) < share:
            raise UserError(
                f"{MAX_ATTEMPTS} samples in a row cannot be read; the last: {bad[-1][0]}: {bad[-1][1]}. Check that "
                "data.data_path is the folder that the names in data.captions_file stand in"
            )
        listed = [(name, reason) for name, reason in bad]
        yield Batch(rows.values, list(rows.captions), list(rows.ids), listed, rows.tokens, rows.features)


class _Positions(Sampler[list[Key]]):
    """For each update, the (epoch, index) keys of its batch, `rows` of it."""

    rows = slice(None)

    def __init__(self, source: Indexed, seed: int, batch_size: int, first: int, last: int) -> None:
        self.source, self.seed, self.batch_size, self.first, self.last = source, seed, batch_size, first, last

    def __len__(self) -> int:
        return max(self.last - self.first, 0)

    def __iter__(self) -> Iterator[list[Key]]:
        per_epoch, known = updates_per_epoch(self.source, self.batch_size), -1
        batches: list[list[int]] = []
        for update in range(self.first, self.last):
            epoch, batch = divmod(update, per_epoch)
            if epoch != known:
                known, batches = epoch, epoch_batches(self.source, self.batch_size, seed=self.seed, epoch=epoch)
            yield [(epoch, index) for index in batches[batch][self.rows]]


class _Candidates:
    """Indices to try for a key: its own, then those that stand in for it, of its shape and chosen by the key."""

    def __init__(self, source: Indexed, seed: int) -> None:
        self.seed, self.groups, self.members = seed, source.groups, groups_of(source)

    def __call__(self, key: Key) -> Iterator[int]:
        epoch, index = key
        yield index
        alike = self.members[self.groups[index] if self.groups else None]
        for attempt in range(1, MAX_ATTEMPTS):
            yield alike[derive(self.seed, "replace", epoch, index, attempt) % len(alike)]


class _Reader(Dataset[tuple[Sample | None, Bad]]):
    """Reads by key; a bad sample is replaced. None: all tried were bad."""

    def __init__(self, source: Source, seed: int) -> None:
        self.source, self.seed, self.candidates = source, seed, _Candidates(source, seed)
        self.fetching = source if isinstance(source, Fetching) else None
        self.checked = False

    def __getitem__(self, key: Key) -> tuple[Sample | None, Bad]:
        rng = random.Random(derive(self.seed, "augment", *key))
        bad: Bad = []
        if self.fetching:
            self.fetching.coming(key[1], seed=self.seed, epoch=key[0])
        for index in self.candidates(key):
            try:
                sample = self.source.read(index, rng)
            except BadSampleError as error:
                bad.append((error.sample, error.reason))
                continue
            if not self.checked:
                check_sample(sample, self.source)
                self.checked = True
            return sample, bad
        return None, bad


class _RowReader:
    """Reads all keys of a batch at once; bad samples are replaced as `_Reader` replaces them."""

    def __init__(self, source: Stored, seed: int, *, pin_memory: bool) -> None:
        self.source, self.seed, self.candidates, self.pin_memory = source, seed, _Candidates(source, seed), pin_memory

    def __call__(self, keys: list[Key]) -> tuple[Rows, Bad]:
        chosen, bad = [], []
        # As those that `_Reader` reads with, so that a cache changes no caption.
        rngs = [random.Random(derive(self.seed, "augment", *key)) for key in keys] if self.source.chooses else None
        for number, key in enumerate(keys):
            for index in self.candidates(key):
                place = self.source.place(index, rngs[number] if rngs else None)
                found = self.source.bad_at(place)
                if found is None:
                    chosen.append(place)
                    break
                bad.append(found)
        rows = self.source.read_rows(chosen, rngs)
        return pinned(rows) if self.pin_memory else rows, bad


class Slots(NamedTuple):
    """This rank's readers among all."""

    rank: int
    ranks: int
    workers: int


class _Streaming(IterableDataset[Any]):
    """This rank's share of the batch of each update; batch b of an epoch is read by worker slot b modulo workers.

    A DataLoader asks its workers in turn, so worker w reads the batches of updates first + w, first + w + workers, …
    """

    def __init__(self, source: Stream, seed: int, share: int, updates: range, per_epoch: int, slots: Slots) -> None:
        super().__init__()
        self.source, self.seed, self.share = source, seed, share
        self.updates, self.per_epoch, self.slots = updates, per_epoch, slots

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        rank, ranks, workers = self.slots
        known: tuple[int, int] | None = None
        samples: Iterator[tuple[Sample, Bad]] = iter(())
        for update in self.updates[info.id if info else 0 :: workers]:
            epoch, batch = divmod(update, self.per_epoch)
            turn, slot = divmod(batch, workers)
            if known != (epoch, slot):
                known = (epoch, slot)
                samples = self.source.samples(
                    seed=self.seed, epoch=epoch, slot=rank * workers + slot, slots=ranks * workers,
                    skip=turn * self.share,
                )  # fmt: skip
            yield _collate([next(samples) for _ in range(self.share)])


def _collate(read: Sequence[tuple[Sample | None, Bad]]) -> tuple[Rows, Bad]:
    samples = [sample for sample, _ in read if sample is not None]
    images = torch.stack([sample.image for sample in samples]) if samples else torch.empty(0)
    bad = [each for _, found in read for each in found]
    return Rows(images, [s.caption for s in samples], [s.id for s in samples], None), bad
