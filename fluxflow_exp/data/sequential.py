"""Reading samples in a given order, each once and without augmentation: for writing what is made of them."""

import os
import random
from collections.abc import Generator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fluxflow_exp.data.protocols import BadSampleError, Fetching, Sample, Source
from fluxflow_exp.data.workers import reading


class Read(NamedTuple):
    """Samples of one shape, one after the other."""

    images: Tensor  # uint8 (good ones, 3, height, width)
    rows: list[int]  # where these stand among those that were asked for
    ids: list[str]  # of all
    captions: list[str]  # of all; empty for bad ones
    bad: dict[int, str]  # row → reason


def read_lists(source: Source, lists: list[list[int]], *, num_workers: int, image_bytes: int = 0) -> Generator[Read]:
    """The samples at each of the lists of indices; bad ones are noted in their place.

    `image_bytes`: of one image, if it is known. Whoever does not read to the end closes the generator.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # ranks that share this machine's memory
    with reading(
        dataset=_Plain(source),
        sampler=lists,
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=num_workers,
        batch_bytes=here * max(map(len, lists), default=0) * image_bytes,
    ) as found:
        yield from found


class _Plain(Dataset[Read]):
    def __init__(self, source: Source) -> None:
        self.source = source
        self.fetching = source if isinstance(source, Fetching) else None

    def __getitem__(self, indices: list[int]) -> Read:
        read: list[Sample | BadSampleError] = []
        for index in indices:
            if self.fetching:
                self.fetching.coming(index)
            try:
                read.append(self.source.read(index, random.Random(0)))
            except BadSampleError as error:
                read.append(error)
        good = {row: each for row, each in enumerate(read) if isinstance(each, Sample)}
        bad = {row: each for row, each in enumerate(read) if isinstance(each, BadSampleError)}
        return Read(
            torch.stack([sample.image for sample in good.values()]) if good else torch.empty(0),
            list(good),
            [good[row].id if row in good else bad[row].sample for row in range(len(read))],
            [good[row].caption if row in good else "" for row in range(len(read))],
            {row: error.reason for row, error in bad.items()},
        )


def _unchanged(read: Any) -> Any:
    """Not torch's default, which would look into every caption."""
    return read
