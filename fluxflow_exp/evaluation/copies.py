"""Copies: do drawn pictures lie nearer to training pictures than pictures lie that were never seen?

Distances of samples to the nearest training picture are held against those of held-out pictures (Meehan, Chaudhuri &
Dasgupta 2020), in the features of a network (Somepalli et al. 2023), where two pictures are 1 - the cosine of their
features apart, of mean 0 and deviation 1 over the training pictures. A sample is called a copy if it is as near as
the nearest twentieth of the held-out pictures are: of a model that copies nothing a twentieth is, one that returns
training pictures has a rate of 1. Mirror images count as the picture. Training and held-out pictures are passed
through the autoencoder, as samples are by their making: what it loses would part a copy from its original.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fluxflow_exp.evaluation import digests
from fluxflow_exp.evaluation.features import BATCH, Features, directions
from fluxflow_exp.evaluation.training_pictures import Track, TrainingPictures
from fluxflow_exp.machine.hardware import Machine
from fluxflow_exp.machine.portion import Portion
from fluxflow_exp.machine.ranks import Ranks
from fluxflow_exp.pictures import to_uint8

QUANTILE = 0.05  # of the held-out pictures' distances: as near is a copy
PAIRS = 8  # closest ones that are shown
CHUNK = 8192  # training pictures that are compared at once
SAME = 1e-5  # distance within which float32 cannot tell two pictures apart

ALONE = Portion.even(Ranks(), 0)  # nothing is divided, however many there are

Through = Callable[[Tensor], Tensor]  # uint8 (n, 3, height, width), the same


class Nearest(NamedTuple):
    """Of each picture."""

    distance: Tensor  # (n,), in [0, 2]
    row: Tensor  # (n,) of the training picture
    mirrored: Tensor  # (n,) whether that is its mirror image


class Pair(NamedTuple):
    """A sample, and the training picture nearest to it."""

    sample: Tensor  # uint8 (3, height, width)
    training: Tensor
    prompt: str
    caption: str
    name: str  # of the training picture
    distance: float
    mirrored: bool


@dataclass(frozen=True)
class Found:
    """What a check has found."""

    samples: Nearest
    held_out: Nearest

    @property
    def threshold(self) -> float:
        """The greatest distance of a copy."""
        return float(self.held_out.distance.quantile(QUANTILE, interpolation="lower"))

    @property
    def rates(self) -> dict[str, float]:
        """The shares of samples, and of held-out pictures, that are as near."""
        near = {"copies": self.samples, "copies_held_out": self.held_out}
        return {name: float((each.distance <= self.threshold).double().mean()) for name, each in near.items()}

    @property
    def distances(self) -> dict[str, float]:
        """The threshold, and the medians."""
        medians = {"samples": self.samples, "held_out": self.held_out}
        return {"threshold": self.threshold, **{name: float(each.distance.median()) for name, each in medians.items()}}


class CopyCheck:
    """Samples and held-out pictures against training pictures, in the features of `network`.

    `through`: pictures, uint8 (n, 3, height, width), as the autoencoder gives them back. Both work for the first time
    when the check does, and what does not change is looked at once.
    """

    def __init__(self, training: TrainingPictures, network: Features, through: Through, track: Track) -> None:
        self.training, self.network, self.through, self.track = training, network, through, track
        self._held_out: Nearest | None = None
        self._looked = False  # at held-out pictures; on other ranks than the first nothing is kept of them

    def __call__(self, samples: Tensor, held_out: Iterable[Tensor]) -> Found:
        """uint8 (n, 3, height, width) of samples, and in parts of held-out pictures, the same each time."""
        found = self.divided(samples, held_out, drawn=ALONE, seen=ALONE)
        assert found
        return found

    def divided(self, samples: Tensor, held_out: Iterable[Tensor], *, drawn: Portion, seen: Portion) -> Found | None:
        """What the first rank finds; a rank has its portion `drawn` of samples, and `seen` of held-out pictures."""
        network, ranks = self.network, drawn.ranks
        training = self.training.features(lambda images: network(self.through(images)), self.track, ranks)
        if not self._looked:
            pictures = self._whole(torch.cat([self._both(self.through(part)) for part in held_out], 1), seen)
            self._held_out = nearest(pictures, training) if ranks.first else None
            self._looked = True
        pictures = self._whole(self._both(samples), drawn)
        return Found(nearest(pictures, training), self._held_out) if self._held_out else None

    def pairs(self, found: Found, images: Tensor, prompts: list[str]) -> list[Pair]:
        """The closest pairs first, each training picture in one; `images`: the samples, uint8 (n, 3, height, width)."""
        kept: dict[int, Pair] = {}
        for place in found.samples.distance.argsort(stable=True).tolist():
            row = int(found.samples.row[place])
            if row not in kept and len(kept) < PAIRS:
                twin, distance = self.training.sample(row), float(found.samples.distance[place])
                mirrored = bool(found.samples.mirrored[place])
                kept[row] = Pair(images[place], twin.image, prompts[place], twin.caption, twin.id, distance, mirrored)
        return list(kept.values())

    def _whole(self, both: Tensor, portion: Portion) -> Tensor:
        """Features (2, n, width) of a rank's portion → of all, on the first one."""
        return portion.whole(both.movedim(1, 0)).movedim(0, 1)

    def _both(self, images: Tensor) -> Tensor:
        """Features (2, n, width) of pictures, and of their mirror images."""
        return torch.stack([self.network(images), self.network(images.flip(3))])


def through(compressor: Any, expander: Any, machine: Machine) -> Through:
    """Return what passes pictures through an autoencoder, as generation has them from it."""

    @torch.no_grad()
    def passed(images: Tensor) -> Tensor:
        made = []
        for part in torch.split(images, BATCH):
            with machine.autocast():
                made.append(to_uint8(expander(compressor(machine.to_device(part)).mode())).cpu())
        return torch.cat(made)

    return passed


def nearest(pictures: Tensor, training: Tensor) -> Nearest:
    """Of features (m, width) those nearest to pictures, (2, n, width) of these and their mirror images."""
    seen, towards = directions(pictures.flatten(0, 1), training), directions(training, training)
    parts = [(seen @ part.T).max(1) for part in torch.split(towards, CHUNK)]
    best, chunk = torch.stack([cosine for cosine, _ in parts]).max(0)
    row = torch.stack([place for _, place in parts]).gather(0, chunk[None])[0] + CHUNK * chunk
    best, row = best.reshape(2, -1), row.reshape(2, -1)
    mirrored = best[1] > best[0]
    distance = (1 - best.amax(0)).clamp_min(0)
    return Nearest(distance.where(distance > SAME, 0), torch.where(mirrored, row[1], row[0]), mirrored)


def kept(found: Found, pairs: list[Pair]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a record keeps of a check, and the pictures that it names, uint8 (3, height, width) by name of a file."""
    pictures: dict[str, Tensor] = {}
    shown = []
    for pair in pairs:
        names = {}
        for key, image in (("sample", pair.sample), ("training", pair.training)):
            names[key] = f"copy_{digests.of_tensors({'image': image})[:16]}.webp"
            pictures[names[key]] = image
        words = {key: getattr(pair, key) for key in ("prompt", "caption", "name", "distance", "mirrored")}
        shown.append({**names, **words})
    return {**found.distances, "said": sentence(found), "pairs": shown}, pictures


def sentence(found: Found) -> str:
    """What the rates mean."""
    (samples, held_out), of = found.rates.values(), len(found.held_out.distance)
    n, distances = len(found.samples.distance), found.distances
    copies = round(samples * n)
    pooled = (samples * n + held_out * of) / (n + of)
    # Two standard errors of the difference of shares that are the same.
    more = samples - held_out > 2 * (pooled * (1 - pooled) * (1 / n + 1 / of)) ** 0.5
    verdict = "the model copies: look at the closest pairs" if more else "no more than of pictures that were never seen"
    return (
        f"{'' if copies else 'no '}copies found: {copies} of {n} samples are as near to a training picture as the "
        f"nearest held-out pictures are ({round(held_out * of)} of {of}), {verdict}; median distance "
        f"{distances['samples']:.2f}, of held-out pictures {distances['held_out']:.2f}"
    )
