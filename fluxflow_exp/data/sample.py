"""What a data set is: captioned images behind an index."""

import random
from typing import NamedTuple, Protocol

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

    def __len__(self) -> int: ...

    def read(self, index: int, rng: random.Random) -> Sample:
        """The sample at `index`; `rng` is for augmentation alone. BadSampleError: it cannot be read."""
        ...


class DataSet(Protocol):
    """What a file of conf/data builds."""

    img_size: int
    train: Source
    validation: Source  # read without augmentation
    bad: list[tuple[str, str]]  # (id, reason) of samples that are known to be unusable before any is read
    max_bad_fraction: float
    prompts: list[str]  # held-out captions, for samples and evaluation
    reads_back: bool  # whether `score` can tell what an image shows

    def score(self, images: Tensor, captions: list[str]) -> dict[str, float]:
        """How far uint8 images (n, 3, height, width) show their captions, 0 to 1 a name; {} without `reads_back`."""
        ...
