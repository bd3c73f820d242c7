"""From a source to batches: order, augmentation and replacement of bad samples are functions of position.

Nothing here depends on the number of worker processes, so that a run continues the same on another machine.
"""

import random
import signal
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fluxflow_exp.config import UserError
from fluxflow_exp.data.sample import BadSampleError, Sample, Source
from fluxflow_exp.seeding import derive, generator

MAX_ATTEMPTS = 100

Key = tuple[int, int]  # epoch, index
Bad = list[tuple[str, str]]  # (id, reason)


class Batch(NamedTuple):
    images: Tensor  # uint8 (batch, 3, height, width)
    captions: list[str]
    ids: list[str]
    bad: Bad  # met while this batch was filled


def updates_per_epoch(source: Source, batch_size: int) -> int:
    """Whole batches in an epoch. ValueError: the set is smaller than one."""
    if len(source) < batch_size:
        raise ValueError(f"the training set has {len(source)} samples, fewer than a batch of {batch_size}")
    return len(source) // batch_size


def order(n: int, *, seed: int, epoch: int) -> list[int]:
    """The permutation of range(n) for an epoch."""
    shuffled: list[int] = torch.randperm(n, generator=generator(seed, "order", epoch)).tolist()
    return shuffled


def load_batches(
    source: Source,
    *,
    seed: int,
    batch_size: int,
    first_update: int,
    last_update: int,
    num_workers: int,
    pin_memory: bool,
) -> Iterator[Batch]:
    """The batches of updates [first_update, last_update), over as many epochs as that takes.

    UserError: so many samples in a row are bad that no replacement was found.
    """
    loader: DataLoader[Any] = DataLoader(
        _Reader(source, seed),
        batch_sampler=_Positions(len(source), seed, batch_size, first_update, last_update),
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if num_workers else None,
    )
    for images, captions, ids, bad in loader:
        if len(ids) < batch_size:
            raise UserError(
                f"{MAX_ATTEMPTS} samples in a row cannot be read; the last: {bad[-1][0]}: {bad[-1][1]}. Check that "
                "data.data_path is the folder that the names in data.captions_file stand in"
            )
        yield Batch(images, list(captions), list(ids), [tuple(b) for b in bad])


def read_all(source: Source, indices: Iterable[int], *, seed: int) -> Batch:
    """These samples in this order, without augmentation; those that cannot be read are left out and listed.

    UserError: none of them can be read.
    """
    good, bad = [], []
    for index in indices:
        try:
            good.append(source.read(index, random.Random(derive(seed, "read", index))))
        except BadSampleError as error:
            bad.append((error.sample, error.reason))
    if not good:
        first = f"{bad[0][0]}: {bad[0][1]}" if bad else "none was asked for"
        raise UserError(f"none of these samples can be read; the first: {first}. Check data.data_path")
    return Batch(torch.stack([s.image for s in good]), [s.caption for s in good], [s.id for s in good], bad)


class _Positions(Sampler[list[Key]]):
    """For each update, the (epoch, index) keys of its batch."""

    def __init__(self, n: int, seed: int, batch_size: int, first: int, last: int) -> None:
        self.n, self.seed, self.batch_size, self.first, self.last = n, seed, batch_size, first, last

    def __len__(self) -> int:
        return max(self.last - self.first, 0)

    def __iter__(self) -> Iterator[list[Key]]:
        per_epoch, known, indices = self.n // self.batch_size, -1, [0]
        for update in range(self.first, self.last):
            epoch, batch = divmod(update, per_epoch)
            if epoch != known:
                known, indices = epoch, order(self.n, seed=self.seed, epoch=epoch)
            first = batch * self.batch_size
            yield [(epoch, index) for index in indices[first : first + self.batch_size]]


class _Reader(Dataset[tuple[Sample | None, Bad]]):
    """Reads by key; a bad sample is replaced by one that its own key chooses. None: every one tried was bad."""

    def __init__(self, source: Source, seed: int) -> None:
        self.source, self.seed = source, seed

    def __getitem__(self, key: Key) -> tuple[Sample | None, Bad]:
        epoch, index = key
        rng = random.Random(derive(self.seed, "augment", epoch, index))
        bad: Bad = []
        for attempt in range(MAX_ATTEMPTS):
            chosen = derive(self.seed, "replace", epoch, index, attempt) % len(self.source) if attempt else index
            try:
                return self.source.read(chosen, rng), bad
            except BadSampleError as error:
                bad.append((error.sample, error.reason))
        return None, bad


def _collate(read: list[tuple[Sample | None, Bad]]) -> tuple[Tensor, list[str], list[str], Bad]:
    samples = [sample for sample, _ in read if sample is not None]
    images = torch.stack([sample.image for sample in samples]) if samples else torch.empty(0)
    bad = [each for _, found in read for each in found]
    return images, [s.caption for s in samples], [s.id for s in samples], bad


def _start_worker(worker: int) -> None:
    """The training process answers signals; a worker that died of one would fail the save that it asks for."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_IGN)
    torch.set_num_threads(1)
