"""What a data set is: captioned images behind an index."""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Sample(NamedTuple):
    image: Tensor  # uint8 (3, height, width)
    caption: str
    id: str


class BadSampleError(Exception):
    """A sample that cannot be read."""

    def __init__(self, sample: str, reason: str) -> None:
        super().__init__(f"{sample}: {reason}")
        self.sample, self.reason = sample, reason


class Source(Protocol):
    """A finite set of samples. What `read` returns is a function of `index` and of what it draws from `rng`."""

    groups: list[Any] | None  # of each index: those of one shape; a batch is made of one group. None: all have one

    def __len__(self) -> int: ...

    def read(self, index: int, rng: random.Random) -> Sample:
        """The sample at `index`; `rng` is for augmentation alone. BadSampleError: it cannot be read."""
        ...


@runtime_checkable
class Stream(Protocol):
    """Samples that can only be read in order. A reader has one of `slots` slots, and each epoch its own samples."""

    epoch_size: int
    max_readers: int

    def __len__(self) -> int: ...

    def samples(
        self, *, seed: int, epoch: int, slot: int, slots: int, skip: int
    ) -> Iterator[tuple[Sample, list[tuple[str, str]]]]:
        """Endlessly, from sample `skip` of the slot on; each with the (id, reason) of bad ones just before it."""
        ...


class DataSet(Protocol):
    """What a file of conf/data builds."""

    img_size: int
    train: Source | Stream
    validation: Source  # read without augmentation
    bad: list[tuple[str, str]]  # (id, reason) of samples that are known to be unusable before any is read
    max_bad_fraction: float
    prompts: list[str]  # held-out captions, for samples and evaluation
    reads_back: bool  # whether `score` can tell what an image shows

    def score(self, images: Tensor, captions: list[str]) -> dict[str, float]:
        """How far uint8 images (n, 3, height, width) show their captions, 0 to 1 a name; {} without `reads_back`."""
        ...
