"""Latents of a frozen compressor and tokens of a frozen text encoder, of a training set, kept on disk.

A cache is addressed by its content: its folder is named by a digest of all that its values depend on, so that one
that does not fit is never found, and nothing in it is ever changed.
"""

import random
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluxflow_exp.data.array_shards import ArrayShards
from fluxflow_exp.data.caption_choice import chosen, heaviest
from fluxflow_exp.data.loader import groups_of, order
from fluxflow_exp.data.protocols import Choices, Choosing, Drawing, Indexed, Ordered, Rows, Tokens

FORMAT = 2  # of the files, and of how pictures are read
SAMPLES, CAPTIONS = 256, 4096  # of a shard


class Entries(NamedTuple):
    """A shard's record."""

    ids: list[str]
    captions: list[str]  # empty for bad samples
    bad: dict[str, str]  # row → reason


class TokenCache:
    """Tokens of different `captions`, the empty one among them, without padding."""

    def __init__(self, folder: Path, captions: list[str]) -> None:
        self.contents = [captions[i : i + CAPTIONS] for i in range(0, len(captions), CAPTIONS)]
        self.shards = ArrayShards(folder, len(self.contents))
        self.places: dict[str, tuple[int, int, int]] = {}  # caption → shard, first row, rows

    def write(self, number: int, tokens: list[NDArray[Any]]) -> None:
        """`tokens` (own length, width) of each caption of the shard."""
        self.shards.write(number, np.concatenate(tokens), [len(each) for each in tokens])

    def open(self) -> None:
        """Find every caption, once all shards are there."""
        for number, captions in enumerate(self.contents):
            first = 0
            for caption, length in zip(captions, self.shards.record(number), strict=True):
                self.places[caption] = (number, first, length)
                first += length

    def read(self, captions: list[str]) -> Tokens:
        """Padded to the longest of them and of the empty caption."""
        places = [self.places[caption] for caption in captions]
        lengths = [length for _, _, length in places]
        array = self.shards.array(0)
        longest = max([*lengths, self.places[""][2]])
        found = np.zeros((len(captions), longest, array.shape[1]), array.dtype)
        for row, (number, first, length) in enumerate(places):
            found[row, :length] = self.shards.array(number)[first : first + length]
        return Tokens(torch.from_numpy(found), lengths)


class LatentCache:
    """Moments of every sample of `source`: a `Stored`. A shard holds samples of one shape."""

    def __init__(self, folder: Path, source: Indexed) -> None:
        self.groups, self.count = source.groups, len(source)
        self.order = source.order if isinstance(source, Ordered) else partial(order, len(source))
        self.contents = [
            members[i : i + SAMPLES] for members in groups_of(source).values() for i in range(0, len(members), SAMPLES)
        ]
        self.shards = ArrayShards(folder, len(self.contents))
        self.ids, self.captions = [""] * self.count, [""] * self.count
        self.places = [(0, 0)] * self.count  # shard, row
        self.bad: dict[int, str] = {}  # index → reason
        self.choices: dict[int, Choices] = {}  # index → captions, of samples that have several
        if isinstance(source, Choosing):
            found = ((index, source.caption_choices(index)) for index in range(self.count))
            self.choices = {index: choices for index, choices in found if choices}
        self.tokens: TokenCache | None = None
        self.features: LatentCache | None = None  # of a teacher, for the same samples

    def __len__(self) -> int:
        return self.count

    def write(self, number: int, moments: NDArray[Any], entries: Entries) -> None:
        """`moments` (samples, channels, h, w); what stands for bad samples is never read."""
        self.shards.write(number, moments, entries._asdict())

    def open(self) -> None:
        """Find every sample, once all shards are there."""
        for number, members in enumerate(self.contents):
            entries = Entries(**self.shards.record(number))
            for row, index in enumerate(members):
                self.ids[index], self.captions[index] = entries.ids[row], entries.captions[row]
                self.places[index] = (number, row)
            self.bad |= {members[int(row)]: reason for row, reason in entries.bad.items()}

    @property
    def chooses(self) -> bool:
        return bool(self.choices)

    def all_captions(self) -> set[str]:
        """Every caption that a sample may have, once all shards are there."""
        return {*self.captions, *(caption for choices in self.choices.values() for caption, _ in choices)}

    def place(self, index: int, rng: random.Random | None) -> int:
        return index

    def bad_at(self, index: int) -> tuple[str, str] | None:
        return (self.ids[index], self.bad[index]) if index in self.bad else None

    def read_rows(self, indices: list[int], rngs: list[random.Random] | None = None) -> Rows:
        """Samples of one shape, none of them bad."""
        captions = [self._caption(index, rngs[row] if rngs else None) for row, index in enumerate(indices)]
        tokens = self.tokens.read(captions) if self.tokens else None
        features = self.features.values(indices) if self.features else None
        return Rows(self.values(indices), captions, [self.ids[index] for index in indices], tokens, features)

    def _caption(self, index: int, rng: random.Random | None) -> str:
        choices = self.choices.get(index)
        if not choices:
            return self.captions[index]
        return chosen(choices, rng) if rng else heaviest(choices)

    def values(self, indices: list[int]) -> Tensor:
        if not indices:
            return torch.empty(0)
        sample = self.shards.array(self.places[indices[0]][0])
        found = np.empty((len(indices), *sample.shape[1:]), sample.dtype)
        for row, index in enumerate(indices):
            number, place = self.places[index]
            found[row] = self.shards.array(number)[place]
        return tensor_of(found)


class DrawnCache:
    """A `Stored` of what `source` draws of its pool, whose samples are in `cache`."""

    groups: list[Any] | None = None
    chooses = True

    def __init__(self, cache: LatentCache, source: Drawing, count: int) -> None:
        """`count`: samples that are drawn in an epoch."""
        self.cache, self.source, self.count = cache, source, count
        self.tokens = cache.tokens

    def __len__(self) -> int:
        return self.count

    def place(self, index: int, rng: random.Random | None) -> int:
        assert rng is not None
        return self.source.draw(rng)

    def bad_at(self, index: int) -> tuple[str, str] | None:
        return self.cache.bad_at(index)

    def read_rows(self, indices: list[int], rngs: list[random.Random] | None = None) -> Rows:
        return self.cache.read_rows(indices, rngs)


def array_of(values: Tensor) -> NDArray[Any]:
    """`values` for NumPy, which has no bfloat16: int16 stands for it."""
    return (values.view(torch.int16) if values.dtype == torch.bfloat16 else values).numpy()


def tensor_of(array: NDArray[Any]) -> Tensor:
    found = torch.from_numpy(array)
    return found.view(torch.bfloat16) if found.dtype == torch.int16 else found
