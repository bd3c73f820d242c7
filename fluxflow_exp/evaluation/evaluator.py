"""Measuring a model: reconstructions, flow loss and samples of held-out images, each number with its provenance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from fluxflow_exp.config.schema import Evaluation
from fluxflow_exp.errors import UserError
from fluxflow_exp.evaluation import coverage, digests, distances, measures, sets
from fluxflow_exp.evaluation.clip import ClipScore
from fluxflow_exp.evaluation.copies import CopyCheck, kept, through
from fluxflow_exp.evaluation.features import Features, load
from fluxflow_exp.evaluation.flow_loss import BATCH, KEY, flow_loss
from fluxflow_exp.evaluation.held_out import HeldOut, data_of, progress
from fluxflow_exp.evaluation.published_model import AUTOENCODER, FLOW, Parts, Subject
from fluxflow_exp.evaluation.record import Record
from fluxflow_exp.evaluation.similarity import similarity
from fluxflow_exp.evaluation.training_pictures import TrainingPictures
from fluxflow_exp.losses.perceptual import Perceptual
from fluxflow_exp.machine.hardware import Machine
from fluxflow_exp.models.text_to_image import OBJECTIVES, TextToImage
from fluxflow_exp.monitor.metrics import higher_is_better, unit
from fluxflow_exp.pictures import to_uint8
from fluxflow_exp.seeding import generator


# One field for each option of the command.
@dataclass(frozen=True)
class Wanted:
    """The measures that are wanted, and their settings."""

    metrics: list[str]
    raw: bool = False
    guidance: list[float] = field(default_factory=lambda: [1.0])
    guidance_interval: list[float] | None = None  # None: all times
    images: int = 256
    steps: int = 25
    sampler: str = "euler"
    shift: float | None = None  # None: that of training
    seed: int = 0
    features: str = measures.EFFICIENTNET
    data: list[str] = field(default_factory=list)  # overrides
    within: str | None = None  # of retrieval
    training_images: int = Evaluation.training_images  # that copies are looked for among


class Evaluator:
    """`perceptual` and `clip` are needed for lpips and clip_score alone."""

    def __init__(
        self,
        subject: Subject,
        wanted: Wanted,
        machine: Machine,
        *,
        perceptual: Perceptual | None = None,
        clip: ClipScore | None = None,
    ) -> None:
        self.subject, self.wanted, self.machine = subject, wanted, machine
        self.perceptual, self.clip = perceptual, clip
        self._sets: dict[str, HeldOut] = {}
        self._network: Features | None = None
        self._check: CopyCheck | None = None
        self._reconstructed: dict[str, float] = {}
        self.pictures: dict[str, Tensor] = {}  # that records name, uint8 (3, height, width)

    def run(self) -> list[Record]:
        """All that is wanted: averaged weights, then raw ones."""
        records: list[Record] = []
        if self.wanted.raw:
            measured = {AUTOENCODER: self._names("reconstructions"), FLOW: self._names("flow", "samples")}
            self.subject.check_raw(tuple(part for parts, names in measured.items() if names for part in parts))
        for ema in (True, False) if self.wanted.raw else (True,):
            if self._names("reconstructions"):
                records += self._reconstructions(ema=ema)
            if self._names("flow", "samples"):
                records += self._flow(ema=ema)
        return records

    def held_out(self, part: str) -> HeldOut:
        """Return the held-out images of the step of `part`. UserError: the model cannot take images of their size."""
        step = self.subject.step(part)
        if step not in self._sets:
            data = data_of(self.subject.values, step, self.wanted.data)
            if data.img_size % self.subject.unit:
                raise UserError(
                    f"data.img_size={data.img_size}: this model takes multiples of {self.subject.unit} pixels a side"
                )
            self._sets[step] = HeldOut(data, count=self.wanted.images)
        return self._sets[step]

    def _names(self, *of: str) -> list[str]:
        return [name for name in self.wanted.metrics if measures.MEASURES[name].of in of]

    @torch.no_grad()
    def _reconstructions(self, *, ema: bool) -> list[Record]:
        parts = self.subject.load(AUTOENCODER, self.machine.device, raw=() if ema else AUTOENCODER)
        step, held_out = self.subject.step("expander"), self.held_out("expander")
        wanted, conditioned = self._names("reconstructions"), self.subject.conditioned(step)
        values: dict[str, list[Tensor]] = {name: [] for name in wanted if name != "rfd"}
        made: list[Tensor] = []
        for batch in held_out.batches(f"Reconstructing, {_said(ema)} weights"):
            images = self._to_device(batch.images)
            with self.machine.autocast():
                found = parts["expander"](parts["compressor"](images).mode(), conditioned).float().clamp(-1, 1)
            for name, found_values in values.items():
                found_values.append(similarity(name, found, images, perceptual=self.perceptual).cpu())
            if "rfd" in wanted:
                made.append(self._features()(to_uint8(found)))
        means = {name: float(torch.cat(each).mean()) for name, each in values.items()}
        if made:
            means["rfd"] = distances.frechet(held_out.features(self._features()), torch.cat(made))
        return [self._record(name, means[name], parts, "expander", ema=ema) for name in wanted]

    def _flow(self, *, ema: bool) -> list[Record]:
        # A flow step trains on the averaged autoencoder's latents, so that raw weights are its own parts' alone.
        parts = self.subject.load((*AUTOENCODER, *FLOW), self.machine.device, raw=() if ema else FLOW)
        records = []
        if self._names("flow"):
            records.append(self._record("flow", self._loss(parts, ema), parts, "flow_processor", ema=ema))
        if self._names("samples"):
            for scale in self.wanted.guidance:
                found, nearest = self._samples(parts, scale, ema)
                made = {
                    name: self._record(name, value, parts, "flow_processor", ema=ema, guidance=scale)
                    for name, value in found.items()
                }
                if nearest:
                    made["copies"] = replace(made["copies"], nearest=nearest)
                records += made.values()
        return records

    def _loss(self, parts: Parts, ema: bool) -> float:
        facts = self.subject.facts["flow"]
        values: list[Tensor] = []
        for batch in self.held_out("flow_processor").batches(f"Flow loss, {_said(ema)} weights"):
            places = range(first := BATCH * len(values), first + len(batch.images))
            with self.machine.autocast():
                found = flow_loss(
                    self._to_device(batch.images),
                    batch.captions,
                    compressor=parts["compressor"],
                    flow=parts["flow_processor"],
                    text_encoder=parts["text_encoder"],
                    objective=OBJECTIVES[facts["objective"]](shift=facts["shift"]),
                    source=partial(generator, self.wanted.seed, *KEY),
                    places=places,
                    total=places.stop,
                )
            values.append(found.cpu())
        return float(torch.cat(values).mean())

    def _samples(self, parts: Parts, scale: float, ema: bool) -> tuple[dict[str, float], dict[str, Any] | None]:
        """An image for each held-out caption, measured: shares and scores as means, distances of the whole set.

        With what a record keeps of copies, if they are wanted.
        """
        held_out, wanted = self.held_out("flow_processor"), self._names("samples")
        facts, captions = self.subject.facts, held_out.captions
        model = TextToImage(
            **{part: parts[part] for part in ("expander", *FLOW)},
            downscale=facts["downscale"],
            objective=OBJECTIVES[facts["flow"]["objective"]](shift=facts["flow"]["shift"]),
            img_size=held_out.data.img_size,
        )
        batches = model.generate(
            captions,
            guidance_scale=scale,
            guidance_interval=self.wanted.guidance_interval,
            steps=self.wanted.steps,
            sampler=self.wanted.sampler,
            shift=self.wanted.shift,
            seed=self.wanted.seed,
            batch_size=BATCH,
        )
        sums: dict[str, float] = {}
        made: list[Tensor] = []
        drawn: list[Tensor] = []  # for copies
        alike = [name for name in wanted if name in measures.SETS and name != "copies"]
        said = f"Sampling at guidance {scale:g}, {_said(ema)} weights"
        with self.machine.autocast():
            for index, images in enumerate(progress(batches, said, total=-(-len(captions) // BATCH))):
                rows = captions[BATCH * index :][: len(images)]
                for name, value in self._scores(wanted, images, rows, held_out).items():
                    sums[name] = sums.get(name, 0.0) + value * len(images) / len(captions)
                if alike:
                    made.append(self._features()(images))
                if "copies" in wanted:
                    drawn.append(images.cpu())
        nearest = None
        if made:
            real, fake = held_out.features(self._features()), torch.cat(made)
            words = {"captions": captions, "prompts": captions}
            sums |= sets.compared(alike, real, fake, **words, seed=self.wanted.seed, within=self.wanted.within)
            if {*coverage.NAMES} & {*alike} and not self._reconstructed:
                passed = through(parts["compressor"], parts["expander"], self.machine)
                self._reconstructed = coverage.of_reconstructions(held_out, self._features(), passed)
        if drawn:
            rates, nearest = self._copies(parts, torch.cat(drawn), held_out)
            sums |= rates
        return {name: sums[name] for name in _in_order(sums, wanted)}, nearest

    def _copies(self, parts: Parts, images: Tensor, held_out: HeldOut) -> tuple[dict[str, float], dict[str, Any]]:
        """The rates of copies among samples, and what a record keeps of them."""
        if self._check is None:
            training = TrainingPictures(held_out.data, count=self.wanted.training_images)
            passed = through(parts["compressor"], parts["expander"], self.machine)
            self._check = CopyCheck(training, self._features(), passed, progress)
        found = self._check(images, (batch.images for batch in held_out.batches("Nearest to held-out images")))
        nearest, pictures = kept(found, self._check.pairs(found, images, held_out.captions))
        self.pictures |= pictures
        return found.rates, nearest

    def _scores(self, wanted: list[str], images: Tensor, captions: list[str], held_out: HeldOut) -> dict[str, float]:
        found = held_out.data.score(images, captions) if "prompt_accuracy" in wanted else {}
        if self.clip is not None and "clip_score" in wanted:
            with torch.autocast(self.machine.device.type, enabled=False):
                found["clip_score"] = self.clip(images, captions)
        return found

    def _record(
        self, name: str, value: float, parts: Parts, part: str, *, ema: bool, guidance: float | None = None
    ) -> Record:
        measure, held_out, step = measures.measure(name), self.held_out(part), self.subject.step(part)
        return Record(
            metric=name,
            value=value,
            unit=unit(name),
            lower_is_better=not higher_is_better(name),
            step=step,
            update=self.subject.update(step),
            ema=ema,
            n=len(held_out),
            seed=None if measure.of == "reconstructions" else self.wanted.seed,
            guidance=guidance,
            img_size=held_out.data.img_size,
            implementation=measures.implementation(name),
            features=self._features_record(name) if measure.features else None,
            weights_digest=parts.digest,
            reference_digest=held_out.pairs_digest if measure.text else held_out.images_digest,
            sampler=None if guidance is None else self._sampler(guidance),
            precision=self.machine.precision,
            device=self.machine.footprint()["gpu"],
            data=self.wanted.data,
            chance=sets.by_chance(name, held_out.captions, held_out.captions, within=self.wanted.within),
            reconstructed=self._reconstructed.get(name),
            last_share=self.subject.last_share(step),
            within=self.wanted.within if name in sets.AMONG else None,
            training=self._check.training.record if self._check and name.startswith("copies") else None,
        )

    def _sampler(self, guidance: float) -> str:
        """Name, steps, and what is not as usual."""
        wanted = self.wanted
        said = [wanted.sampler, f"{wanted.steps} steps"]
        if wanted.guidance_interval is not None and guidance != 1:
            said.append("guidance from {:g} to {:g}".format(*wanted.guidance_interval))
        if wanted.shift is not None:
            said.append(f"shift {wanted.shift:g}")
        return ", ".join(said)

    def _features_record(self, name: str) -> dict[str, str]:
        if name == "lpips":
            assert self.perceptual is not None
            return {"name": f"lpips {self.perceptual.net}", "digest": self._perceptual_digest}
        if name == "clip_score":
            assert self.clip is not None
            return self.clip.record
        return self._features().record

    @cached_property
    def _perceptual_digest(self) -> str:
        assert self.perceptual is not None
        return digests.of_tensors(self.perceptual.network(self.machine.device).state_dict())

    def _features(self) -> Features:
        if self._network is None:
            self._network = load(self.wanted.features).to(self.machine.device)
        return self._network

    def _to_device(self, images: Tensor) -> Tensor:
        """uint8 → float32 in [-1, 1]."""
        return images.to(self.machine.device).float() / 127.5 - 1


def _in_order(found: Iterable[str], wanted: list[str]) -> list[str]:
    """Names as they were asked for, shares of a prompt after their sum."""
    return sorted(found, key=lambda name: (wanted.index(next(w for w in wanted if name.startswith(w))), len(name)))


def _said(ema: bool) -> str:
    return "averaged" if ema else "raw"
