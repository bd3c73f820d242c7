"""Built-in data: one coloured shape on a coloured ground, with an exact caption. Drawn on the fly.

Some (kind, colour, ground) triples are held out of training whose pairs are all trained on, so that a model that
draws them has learnt to combine what it read. A reader (`shapes_reader`) tells what an image shows.
"""

import random
from itertools import product
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor

from fluxflow_exp.config.bounds import PositiveInt, Whole
from fluxflow_exp.data import shapes_reader
from fluxflow_exp.data.protocols import Contents, Sample, digest
from fluxflow_exp.data.shapes_geometry import COLOURS, KINDS, Triple, caption_of, render
from fluxflow_exp.seeding import derive

HELD_OUT_EVERY = 7
SMALLEST = 16  # pixels a side: below, shapes cannot be told apart


class Shapes:
    """`n_images` training drawings and `n_validation` held-out ones of `img_size` pixels; a function of `seed`."""

    max_bad_fraction = 0.0
    reads_back = True

    def __init__(
        self,
        *,
        img_size: Annotated[int, Ge(SMALLEST)] = 32,
        n_images: PositiveInt = 16384,
        n_validation: PositiveInt = 256,
        seed: Whole = 0,
    ) -> None:
        self.img_size = img_size
        self.bad: list[tuple[str, str]] = []
        self.notes: list[str] = []
        trained, held_out = split_triples()
        self.train = _Drawings("train", trained, n_images, img_size, seed)
        self.validation = _Drawings("held-out", held_out, n_validation, img_size, seed)
        mixed = list(held_out)
        random.Random(derive(seed, "prompts")).shuffle(mixed)
        self.prompts = [caption_of(triple) for triple in mixed]

    def score(self, images: Tensor, captions: list[str]) -> dict[str, float]:
        """Shares of images that show all of their caption, and each attribute of it."""
        wanted = [_by_caption()[caption] for caption in captions]
        read = shapes_reader.read_shapes(images)
        hits = np.array([[a == b for a, b in zip(w, r, strict=True)] for w, r in zip(wanted, read, strict=True)])
        kind, colour, ground = hits.mean(0).tolist()
        return {
            "prompt_accuracy": float(hits.all(1).mean()),
            "prompt_accuracy_kind": kind,
            "prompt_accuracy_colour": colour,
            "prompt_accuracy_ground": ground,
        }


def split_triples() -> tuple[list[Triple], list[Triple]]:
    """Training and held-out triples; every pair of attributes of a held-out one occurs in training."""
    triples = [(k, c, g) for k, c, g in product(KINDS, COLOURS, COLOURS) if c != g]
    kinds, colours = list(KINDS), list(COLOURS)

    def held_out(triple: Triple) -> bool:
        kind, colour, ground = triple
        # A Latin-square rule: of the kinds that share a pair of colours, at most one is held out.
        return (kinds.index(kind) + 2 * colours.index(colour) + 3 * colours.index(ground)) % HELD_OUT_EVERY == 0

    return [t for t in triples if not held_out(t)], [t for t in triples if held_out(t)]


class _Drawings:
    groups: list[Any] | None = None
    varies: str | None = None

    def __init__(self, split: str, triples: list[Triple], n: int, img_size: int, seed: int) -> None:
        self.split, self.triples, self.n, self.img_size, self.seed = split, triples, n, img_size, seed

    def __len__(self) -> int:
        return self.n

    def read(self, index: int, rng: random.Random) -> Sample:
        own = random.Random(derive(self.seed, "shapes", self.split, index))
        triple = self.triples[index % len(self.triples)] if self.split != "train" else own.choice(self.triples)
        pixels: NDArray[np.uint8] = render(triple, self.img_size, own)
        return Sample(torch.from_numpy(pixels), caption_of(triple), f"{self.split}-{index}")

    def fingerprint(self, *, times: bool = True) -> str:
        return digest([(self.split, self.n, self.img_size, self.seed)])

    def contents(self) -> Contents:
        drawn = digest([(self.split, self.n, self.seed)])  # each is a function of its number
        return Contents(self.n, drawn, drawn, drawn)


def _by_caption() -> dict[str, Triple]:
    return {caption_of((k, c, g)): (k, c, g) for k, c, g in product(KINDS, COLOURS, COLOURS) if c != g}
