"""The training pictures that drawn ones are compared with: read as they are, known by their digest."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from fluxflow_exp.data.protocols import BadSampleError, DataSet, Sample, Stream, unaugmented
from fluxflow_exp.errors import UserError
from fluxflow_exp.evaluation import digests
from fluxflow_exp.evaluation.features import BATCH
from fluxflow_exp.machine.portion import Portion
from fluxflow_exp.machine.ranks import Ranks
from fluxflow_exp.seeding import derive, generator

NAME = "training pictures"  # of what is drawn here
Track = Callable[..., Iterable[Any]]  # (parts, description, *, total) → the parts, with their progress shown


class TrainingPictures:
    """`count` training pictures of `data`, or all if they are no more. Which, hangs on how many there are alone.

    ValueError: `data` cannot be looked through.
    """

    def __init__(self, data: DataSet, *, count: int) -> None:
        reason = hidden(data)
        if reason:
            raise ValueError(reason)
        self.source: Any = unaugmented(data.train)
        self.total = len(self.source)
        self.places: Sequence[int] = range(self.total)  # in the source, of what is compared
        if count < self.total:
            self.places = sorted(torch.randperm(self.total, generator=generator(NAME))[:count].tolist())
        self.digest = ""  # of the pictures, once they have been looked at
        self._features: Tensor | None = None

    @property
    def record(self) -> dict[str, str]:
        """Name and digest, as the record of a measure has them."""
        return {"name": f"{len(self.places)} of {self.total}", "digest": self.digest}

    def features(self, network: Callable[[Tensor], Tensor], track: Track, ranks: Ranks | None = None) -> Tensor:
        """(n, width) of what `network` makes of uint8 (n, 3, height, width), once; what cannot be read is left out.

        Of several `ranks` each looks at a portion, and the first one gets all; there is no digest then.
        UserError: none can be read.
        """
        if self._features is None:
            ranks = ranks or Ranks()
            asked, every = Portion.even(ranks, len(self.places)), len(self.places)
            made: list[Tensor] = []
            readable: list[int] = []
            seen, whole = digests.Images(), self.places[asked.first : asked.first + asked.own]
            batches = (whole[first : first + BATCH] for first in range(0, len(whole), BATCH))
            for places in track(batches, f"Features of {every} training pictures", total=-(-len(whole) // BATCH)):
                found = dict(self._read(places))
                if found:
                    images = torch.stack([sample.image for sample in found.values()])
                    seen.add(images, [sample.caption for sample in found.values()])
                    made.append(network(images))
                    readable += found
            portion = Portion.of_own(ranks, len(readable))
            if not portion.total:
                raise UserError(f"copies: none of {every} training pictures can be read. Check data.data_path")
            self._features = portion.whole(torch.cat(made) if made else torch.empty(0))
            self.places = portion.listed(readable)
            self.digest = seen.images if ranks.count == 1 else ""
        return self._features

    def sample(self, row: int) -> Sample:
        """The picture behind a row of the features."""
        ((_, found),) = self._read([self.places[row]])
        return found

    def _read(self, places: Sequence[int]) -> Iterator[tuple[int, Sample]]:
        for place in places:
            with suppress(BadSampleError):
                yield place, self.source.read(place, random.Random(derive(NAME, place)))


def hidden(data: DataSet) -> str | None:
    """Say why the training pictures cannot be looked through; None: they can."""
    if isinstance(data.train, Stream):
        return "copies are looked for among training pictures, and those of streamed shards pass by once"
    if unaugmented(data.train).groups is not None:
        return "copies are looked for among training pictures of one shape, and these have several"
    return None
