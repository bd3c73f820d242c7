"""Several data sets as one: each image comes from one of them, drawn by weight."""

import random
from functools import cached_property
from typing import Any

from torch import Tensor

from fluxflow_exp.data.fetched import FetchedImages
from fluxflow_exp.data.protocols import (
    BadSampleError,
    Captioned,
    Choices,
    Choosing,
    Contents,
    DataSet,
    Sample,
    Source,
    Stream,
    digest,
    notes_of,
    together,
    unaugmented,
)


class Mixture:
    """`sets` (name → data set) drawn by `weights`; held-out images and prompts come from each in turn.

    An epoch has as many samples as the sets together; each is drawn anew from a set chosen by weight, so that within
    an epoch one may come twice and another not at all. ValueError: sets of different image sizes, a streamed one, one
    with buckets, or no positive weight.
    """

    reads_back = False

    def __init__(self, sets: dict[str, DataSet], weights: dict[str, float]) -> None:
        if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
            raise ValueError(f"a mixture needs weights ≥ 0, one of them positive, not {weights}")
        chosen = {name: sets[name] for name in weights}
        if len({each.img_size for each in chosen.values()}) > 1:
            sizes = ", ".join(f"{name} {each.img_size}" for name, each in chosen.items())
            raise ValueError(f"a mixture needs one img_size, not {sizes}")
        for name, each in chosen.items():
            if isinstance(each.train, Stream) or each.train.groups is not None:
                raise ValueError(f"{name}: streamed shards, buckets and reduced_min_sizes cannot be mixed into a batch")
            if isinstance(each.train, FetchedImages) and not each.train.whole:
                raise ValueError(f"{name}: a mixture draws from all shards at any time: set cache_gib to hold them all")
        self.sets = list(chosen)
        self.img_size = next(iter(chosen.values())).img_size
        self.max_bad_fraction = max(each.max_bad_fraction for each in chosen.values())
        self.notes = [f"{name}: {note}" for name, each in chosen.items() for note in notes_of(each)]
        self.bad = [bad for each in chosen.values() for bad in each.bad]
        trained: dict[str, Any] = {name: each.train for name, each in chosen.items()}
        self.train: Source = _Drawn(trained, [weights[name] for name in chosen])
        self.validation: Source = _InTurn({name: each.validation for name, each in chosen.items()})
        self.prompts = _interleaved([each.prompts for each in chosen.values()])

    def score(self, images: Tensor, captions: list[str]) -> dict[str, float]:
        """Nothing here reads captions back from images."""
        return {}


class _Drawn:
    groups: list[Any] | None = None
    varies: str | None = "a mixture draws its images anew each epoch"

    def __init__(self, sources: dict[str, Source], weights: list[float]) -> None:
        self.sources, self.names, self.weights = sources, list(sources), weights

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources.values())

    def read(self, index: int, rng: random.Random) -> Sample:
        name, place = self._drawn(rng)
        return _named(name, self.sources[name], place, rng)

    def pool(self) -> "_InTurn":
        return _InTurn({name: self.sources[name] for name in self._used()})

    def draw(self, rng: random.Random) -> int:
        return self._numbers[self._drawn(rng)]

    @cached_property
    def _numbers(self) -> dict[tuple[str, int], int]:
        return {place: number for number, place in enumerate(self.pool().places)}

    def _drawn(self, rng: random.Random) -> tuple[str, int]:
        (name,) = rng.choices(self.names, self.weights)
        return name, rng.randrange(len(self.sources[name]))

    def _used(self) -> list[str]:
        return [name for name, weight in zip(self.names, self.weights, strict=True) if weight > 0]

    def captions(self) -> list[str]:
        """Those of the sources that have them."""
        return [each for source in self.sources.values() if isinstance(source, Captioned) for each in source.captions()]

    def unaugmented(self) -> "_InTurn":
        """The samples of all sets that are drawn from."""
        return _InTurn({name: unaugmented(self.sources[name]) for name in self._used()})

    def fingerprint(self, *, times: bool = True) -> str:
        return digest([self.weights, *(source.fingerprint(times=times) for source in self.sources.values())])

    def contents(self) -> Contents:
        return together([source.contents() for source in self.sources.values()])


class _InTurn:
    """The sources' samples in turn, until the shortest is used up; then the others' rest."""

    groups: list[Any] | None = None

    def __init__(self, sources: dict[str, Source]) -> None:
        self.sources = sources
        self.places = _interleaved([[(n, i) for i in range(len(s))] for n, s in sources.items()])

    def __len__(self) -> int:
        return len(self.places)

    def read(self, index: int, rng: random.Random) -> Sample:
        name, place = self.places[index]
        return _named(name, self.sources[name], place, rng)

    def caption_choices(self, index: int) -> Choices:
        name, place = self.places[index]
        source = self.sources[name]
        return source.caption_choices(place) if isinstance(source, Choosing) else ()

    @property
    def varies(self) -> str | None:
        return next((source.varies for source in self.sources.values() if source.varies), None)

    def fingerprint(self, *, times: bool = True) -> str:
        return digest(source.fingerprint(times=times) for source in self.sources.values())

    def contents(self) -> Contents:
        return together([source.contents() for source in self.sources.values()])


def _named(name: str, source: Source, index: int, rng: random.Random) -> Sample:
    """A sample whose id says which set it is from."""
    try:
        sample = source.read(index, rng)
    except BadSampleError as error:
        raise BadSampleError(f"{name}/{error.sample}", error.reason) from error
    return sample._replace(id=f"{name}/{sample.id}")


def _interleaved(lists: list[list[Any]]) -> list[Any]:
    longest = max(len(each) for each in lists)
    return [each[i] for i in range(longest) for each in lists if i < len(each)]
