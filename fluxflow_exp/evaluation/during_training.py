"""The measures that a step takes of held-out images while it trains (`evaluation.metrics`).

They are functions of the weights alone: an interrupted run measures what an undisturbed one does.
"""

import math

import torch
from torch import Tensor

from fluxflow_exp.config.schema import Evaluation
from fluxflow_exp.data.protocols import DataSet
from fluxflow_exp.evaluation import distances, sets
from fluxflow_exp.evaluation.copies import CopyCheck, Through
from fluxflow_exp.evaluation.features import Features, load
from fluxflow_exp.evaluation.measures import MEASURES
from fluxflow_exp.evaluation.similarity import means
from fluxflow_exp.evaluation.training_pictures import Track, TrainingPictures
from fluxflow_exp.losses.perceptual import Perceptual
from fluxflow_exp.machine.portion import Portion
from fluxflow_exp.pictures import to_uint8


class ValidationMetrics:
    """Measures `of` reconstructions or samples among those that are wanted; networks are loaded with the first.

    `data`, `through` (the autoencoder: see copies) and `track`, which shows progress, are needed for copies alone.
    ValueError: the images are too small for one of them, LPIPS's weights are not to be had, or the training images
    cannot be looked through.
    """

    def __init__(
        self,
        wanted: Evaluation,
        *,
        of: str,
        img_size: int,
        device: torch.device,
        data: DataSet | None = None,
        through: Through | None = None,
        track: Track | None = None,
    ) -> None:
        self.names = [name for name in wanted.metrics if MEASURES[name].of == of]
        self.wanted, self.device = wanted, device
        small = [f"{name} needs {MEASURES[name].least}" for name in self.names if MEASURES[name].least > img_size]
        if small:
            raise ValueError(f"evaluation.metrics: images have {img_size} pixels a side, and {', '.join(small)}")
        self.perceptual = _perceptual(wanted) if "lpips" in self.names else None
        self.training = _training(wanted, data) if "copies" in self.names else None
        self.through, self.track = through, track
        self._features: Features | None = None
        self._real: Tensor | None = None
        self._check: CopyCheck | None = None

    def of_reconstructions(self, found: Tensor, images: Tensor, target: Tensor, portion: Portion) -> dict[str, float]:
        """`val_<name>` of reconstructions and originals (n, 3, height, width) in [-1, 1]; `images`: these in uint8.

        A rank has its `portion` of them, and the first one gets what holds of all.
        """
        alike = [name for name in self.names if name != "rfd"]
        values = means(alike, found, target, perceptual=self.perceptual, whole=portion.whole)
        if "rfd" in self.names:
            real, fake = self._real_features(images, portion), portion.whole(self._network()(to_uint8(found)))
            values["rfd"] = distances.frechet(real, fake) if portion.ranks.first else math.nan
        return {f"val_{name}": values[name] for name in self.names}

    def of_samples(
        self, made: Tensor, prompts: list[str], images: Tensor, captions: list[str], *, drawn: Portion, seen: Portion
    ) -> dict[str, float]:
        """`val_<name>` of what was drawn for `prompts`, and held-out images, uint8 (n, 3, height, width) each.

        A rank has its portion `drawn` of `made`, and `seen` of images and captions; the first one gets the values.
        """
        if not self.names:
            return {}
        found: dict[str, float] = {}
        alike = [name for name in self.names if name != "copies"]
        if alike:
            real, fake = self._real_features(images, seen), drawn.whole(self._network()(made))
            captions = seen.listed(captions)
            if seen.ranks.first:
                found |= sets.compared(alike, real, fake, captions=captions, prompts=prompts)
        if self.training is not None:
            copies = self._copy_check(self.training).divided(made, [images], drawn=drawn, seen=seen)
            found |= copies.rates if copies else {}
        return {f"val_{name}": value for name, value in found.items()}

    def _copy_check(self, training: TrainingPictures) -> CopyCheck:
        if self._check is None:
            assert self.through is not None
            assert self.track is not None
            self._check = CopyCheck(training, self._network(), self.through, self.track)
        return self._check

    def _real_features(self, images: Tensor, portion: Portion) -> Tensor:
        """Return the features of held-out images, which are the same each time."""
        if self._real is None:
            self._real = portion.whole(self._network()(images))
        return self._real

    def _network(self) -> Features:
        if self._features is None:
            self._features = load(self.wanted.features).to(self.device)
        return self._features


def _training(wanted: Evaluation, data: DataSet | None) -> TrainingPictures:
    assert data is not None
    try:
        return TrainingPictures(data, count=wanted.training_images)
    except ValueError as error:
        raise ValueError(f"evaluation.metrics: copies: {error}") from error


def _perceptual(wanted: Evaluation) -> Perceptual:
    try:
        return Perceptual(net=wanted.lpips_net, weights_file=wanted.lpips_weights_file)  # type: ignore[arg-type]
    except ValueError as error:
        said = str(error).replace("perceptual.weights_file", "evaluation.lpips_weights_file")
        raise ValueError(f"evaluation.metrics: lpips: {said}") from error
