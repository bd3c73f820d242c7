"""Training of the flow transformer, and of a text encoder that is not frozen, on the frozen autoencoder's latents."""

from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fluxflow_exp import pictures
from fluxflow_exp.data.loader import Batch
from fluxflow_exp.evaluation import flow_loss
from fluxflow_exp.evaluation.copies import through
from fluxflow_exp.evaluation.during_training import ValidationMetrics
from fluxflow_exp.evaluation.measures import MEASURES, ON_SCHEDULE
from fluxflow_exp.losses.augmentation import Augmentation
from fluxflow_exp.losses.flow_matching import RectifiedFlow
from fluxflow_exp.losses.repa import Repa
from fluxflow_exp.losses.self_alignment import SelfAlignment
from fluxflow_exp.losses.terms import Loss, Terms, Weights, computed
from fluxflow_exp.machine.portion import Portion
from fluxflow_exp.machine.ranks import Ranks
from fluxflow_exp.machine.visitor import make_visitor
from fluxflow_exp.models.patch_encoder import fingerprint
from fluxflow_exp.models.posterior import Posterior
from fluxflow_exp.models.text_encoder import Text, padded
from fluxflow_exp.models.text_to_image import TextToImage
from fluxflow_exp.monitor.health import HealthContext
from fluxflow_exp.seeding import generator
from fluxflow_exp.trainers import shared
from fluxflow_exp.trainers.alignment import Alignment
from fluxflow_exp.trainers.augmented import Augmented
from fluxflow_exp.trainers.base import Trainer
from fluxflow_exp.trainers.context import StepContext
from fluxflow_exp.trainers.health_check import latent_numbers
from fluxflow_exp.trainers.latent_cache import open_cache
from fluxflow_exp.trainers.latents import Cached, Encoded, check_width, drops, statistics
from fluxflow_exp.trainers.phase import Micro, Phase
from fluxflow_exp.trainers.recent_texts import recent_texts

LATENT_STATISTICS_IMAGES = 1024
GENERATION_BATCH = 64


class FlowTrainer(Trainer):
    """Players: `flow` (flow_processor) and, unless it is frozen, `text_encoder`; the same losses train both.

    A loss that is absent is not computed. `losses` are the user's own (see losses/terms.py).
    """

    PLAYERS = {"flow": ("flow_processor",), "text_encoder": ("text_encoder",)}
    USES: ClassVar[tuple[str, ...]] = ("compressor", "expander")
    NEEDS = ("flow_processor", "text_encoder")
    AVERAGED = ("flow", "text_encoder")
    MICRO_BATCH = "flow"
    GIVES = ("prediction", "data", "noise", "times")
    METRICS = {
        "flow": None,
        "self_alignment": "self_alignment",
        "repa": "repa",
        "val_flow": None,
        **{f"val_{name}": None for name in ON_SCHEDULE if MEASURES[name].of == "samples"},
    }
    REACHES = dict.fromkeys(("flow", "self_alignment", "repa"), NEEDS)
    CACHES = True

    def __init__(
        self,
        setup: StepContext,
        *,
        objective: RectifiedFlow,
        self_alignment: SelfAlignment | None = None,
        repa: Repa | None = None,
        augmentation: Augmentation | None = None,
        **losses: Loss,
    ) -> None:
        self.alignment = Alignment(repa, setup) if repa else None
        self.augmented = Augmented(augmentation, setup) if augmentation else None
        super().__init__(setup, losses)
        self.augmentation, self.views = augmentation, augmentation.views if augmentation else 1
        self.objective, self.self_alignment = objective, self_alignment
        self.compressor: Any = setup.parts["compressor"]
        self.flow: Any = setup.parts["flow_processor"]
        self.text_encoder: Any = setup.parts["text_encoder"]
        self.aligned = self_alignment.blocks(self.flow) if self_alignment else ()
        device, size = self.machine.device, setup.data.img_size
        passed = through(self.compressor, setup.parts["expander"], self.machine)
        self.validation_metrics = ValidationMetrics(
            setup.evaluation, of="samples", img_size=size, device=device, data=setup.data, through=passed,
            track=setup.console.track,
        )  # fmt: skip
        self.trains_text = "text_encoder" in self.players
        self.latents = Encoded(self.machine, setup.parts, trains_text=self.trains_text)
        check_width(self.text_encoder, self.flow)

    def open_source(self) -> None:
        place = self.setup.cache
        what = (self.trains_text, self.alignment, self.augmentation)
        cache = None if place is None else open_cache(self.setup, place, *what)
        if cache is not None:
            self.source = cache
            self.latents = Cached(cache, self.machine, self.setup.parts, trains_text=self.trains_text, views=self.views)
        if self.latents.has_tokens:
            make_visitor(self.text_encoder, self.machine)
        elif not self.trains_text:
            self.latents.recent = recent_texts(self.setup)

    def beside(self) -> dict[str, dict[str, nn.Module]]:
        aligned = {"repa": self.alignment.projector} if self.alignment else {}
        return {"flow": aligned | ({"augmentation": self.augmented.embedding} if self.augmented else {})}

    def features(self, images: Tensor) -> Tensor | None:
        return self.alignment.of(images) if self.alignment else None

    def kind(self, update: int) -> tuple[str, ...]:
        aligned = self.alignment is not None and self.alignment.repa.is_on(update, self.length.updates)
        return ("repa",) if aligned else ()

    def inputs(self, batch: Batch) -> Tensor:
        drawn = self.augmented.draw(batch, self.update_index, self.length.batch_size) if self.augmented else None
        return self.latents.inputs(batch, drawn)

    def prepare(self) -> None:
        """Measure each latent channel's mean and deviation on training images, so that the flow sees unit scale."""
        measured = statistics(self._measured()) if self.setup.ranks.first else None
        mean, deviation = self.setup.ranks.from_first(measured) or (None, None)
        assert mean is not None
        self.flow.latent_mean.copy_(mean)
        self.flow.latent_std.copy_(deviation)

    def _measured(self) -> Iterator[Tensor]:
        """Latents of training images, a micro-batch at a time."""
        length = self.length
        wanted = min(-(-LATENT_STATISTICS_IMAGES // length.batch_size), length.updates_per_epoch)
        for index, batch in enumerate(self.batches(0, wanted, alone=True)):
            self.setup.folder.report_bad(batch.bad, self.setup.data, self.setup.console.say)
            noise = self.noise(self._latent_shape(batch), f"statistics {index}")
            for first in range(0, len(batch.images), micro := self.accumulation.micro_batch):
                rows = slice(first, first + micro)
                with torch.no_grad(), self.machine.autocast():
                    part = self.latents.inputs(batch._replace(images=batch.images[rows]))
                    latents = self.latents.posterior(part).sample(noise[rows])
                yield latents

    def facts(self) -> dict[str, Any]:
        teacher = {"teacher": fingerprint(self.alignment.teacher.model)} if self.alignment else {}
        return {**self.objective.facts(), "cfg_dropout_prob": self.setup.cfg_dropout_prob, **teacher}

    def phases(self) -> list[Phase]:
        # A pretrained encoder may ask the GPU for what it does next, which a graph cannot hold.
        replayed = not (self.losses or (self.trains_text and self.text_encoder.pretrained))
        return [Phase(list(self.players.values()), self._loss, arguments=self._arguments, replayed=replayed)]

    def begin_update(self, batch: Batch) -> None:
        count, shape = self.length.batch_size, self._latent_shape(batch)
        self.posterior_noise = self.noise(shape, "posterior")
        self.flow_noise = self.noise(shape, "noise")
        self.times = self.objective.times(self.noise((count,), "time"))
        self.dropped = drops(self.setup, self.update_index, count)
        self.latents.begin_update(batch)
        if self.alignment:
            latents, forget = self.latents.size(batch), self.accumulation.forget_graphs
            self.alignment.begin_update(batch, self.update_index, latents=latents, forget_graphs=forget)

    def _latent_shape(self, batch: Batch) -> tuple[int, ...]:
        """Return the shape for the whole global batch, of which `batch` is this rank's share."""
        return self.length.batch_size, self.compressor.vae_dim, *self.latents.size(batch)

    def evaluate(self, *, last: bool, raw: bool = False) -> dict[str, float]:
        """Flow loss on held-out images at fixed times and noise; after the last update also what images show."""
        evaluation, data = self.setup.evaluation, self.setup.data
        batch, seen = shared.measured(self.setup)
        shows = last and evaluation.prompts > 0 and data.reads_back
        with self.averaged(raw=raw):
            metrics = self.held_out_losses(batch, seen)
            if shows or self.validation_metrics.names:
                prompts = [data.prompts[i % len(data.prompts)] for i in range(evaluation.prompts)]
                drawn = Portion.even(self.ranks, len(prompts))
                drawing = f"Generating {len(prompts)} held-out prompts"
                images = self._generate(prompts, evaluation, rows=drawn.places, said=drawing)
                compared = (images, prompts, batch.images, batch.captions)
                metrics |= self.validation_metrics.of_samples(*compared, drawn=drawn, seen=seen)
                images = drawn.whole(images) if shows else images
                metrics |= data.score(images, prompts) if shows and self.ranks.first else {}
        return metrics

    def held_out_losses(self, batch: Batch, portion: Portion) -> dict[str, float]:
        """The flow loss of a rank's `portion` of held-out samples, first of all."""
        total = sum(float(losses.sum()) for losses in self.flow_losses(batch, portion))
        return {"val_flow": portion.mean(total / max(portion.own, 1))}

    def health(self, batch: Batch) -> tuple[dict[str, float], HealthContext]:
        """Latents are those that the flow sees: of unit scale on the training set."""
        latents: list[Tensor] = []
        for _ in self.flow_losses(batch, Portion.even(Ranks(), len(batch.ids)), seen=latents):
            pass
        return latent_numbers(torch.cat(latents)), HealthContext(self.setup.name)

    def sample_pictures(self, suffix: str) -> None:
        """Images for the sample prompts; the noise of a prompt is the same each time."""
        samples, prompts = self.setup.samples, shared.shown_prompts(self.setup)
        folder, stem = self.setup.folder.samples, f"{self.setup.name}_{self.setup.index:03d}_{suffix}"
        drawn = self.drawn(f"guidance {self.setup.guidance(samples.guidance_scale):g}")
        portion = Portion.even(self.ranks, len(prompts))
        for size in samples.sample_sizes or [None]:
            with self.averaged():
                images = self._generate(prompts, samples, rows=portion.places, size=pictures.size_of(size))
            mark = "" if size is None else f"-{pictures.size_label(size)}"
            written = shared.write_captioned(images, prompts, portion, folder, stem, mark, title=self.title(drawn))
            self.write_row("samples", {}, pictures=written, drawn=drawn)

    def _arguments(self, micro: Micro) -> tuple[Tensor, ...]:
        data = self._latents(self.latents.posterior(micro.images), self.posterior_noise[micro.rows])
        text = self.latents.text(micro, self.dropped[micro.rows])
        if data.is_cuda and not self.trains_text:
            text = padded(Text(*text))
        # Empty is off: shapes then tell a GPU which of its graphs a pass replays.
        features = self.alignment.features(micro) if self.alignment else data.new_empty(0)
        changes = self.augmented.changes(micro) if self.augmented else data.new_empty(0)
        return data, self.flow_noise[micro.rows], self.times[micro.rows], features, changes, *text

    def _loss(
        self, data: Tensor, noise: Tensor, times: Tensor, features: Tensor, changes: Tensor, *words: Tensor
    ) -> tuple[Terms, Weights]:
        text = self.text_encoder.encode(*words) if self.trains_text else Text(*words)
        noisy = self.objective.interpolate(data, noise, times)
        weights: Weights = {"flow": 1.0}
        aligned: Terms = {}
        taps = (*self.aligned, *([self.alignment.block] if self.alignment and features.numel() else []))
        told = {"extra": self.augmented.embedding(changes)} if self.augmented else {}
        found = self.flow(noisy, times, text, **told, **({"taps": taps} if taps else {}))
        velocity, tokens = found if taps else (found, [])
        if self.self_alignment:
            aligned |= self.self_alignment(*tokens[:2])
            weights |= self.self_alignment.weights
        if self.alignment and features.numel():
            aligned |= self.alignment.terms(tokens[-1], features)
            weights |= self.alignment.repa.weights
        own, own_weights = computed(self.losses, velocity, data, noise, times)
        return self.objective(velocity, data, noise, times) | aligned | own, weights | own_weights

    def _latents(self, posterior: Posterior, noise: Tensor) -> Tensor:
        latents: Tensor = self.flow.normalise(posterior.sample(noise).float())
        return latents

    def flow_losses(self, batch: Batch, portion: Portion, *, seen: list[Tensor] | None = None) -> Iterator[Tensor]:
        """A value of each of this rank's own images, up to 64 at a time. `seen` gets the latents, of unit scale."""
        source = partial(generator, self.setup.seed, *flow_loss.KEY, device=self.machine.device)
        for first in range(0, portion.each, flow_loss.BATCH):
            rows = slice(first, first + flow_loss.BATCH)
            with self.machine.autocast():
                losses = flow_loss.flow_loss(
                    self.machine.to_device(batch.images[rows]),
                    batch.captions[rows],
                    compressor=self.compressor,
                    flow=self.flow,
                    text_encoder=self.text_encoder,
                    objective=self.objective,
                    source=source,
                    places=portion.places[rows],
                    total=portion.total,
                    seen=seen,
                )
            yield losses[: max(portion.own - first, 0)]

    def _generate(
        self,
        prompts: list[str],
        options: Any,
        *,
        rows: list[int] | None = None,
        size: tuple[int, int] | None = None,
        said: str | None = None,
    ) -> Tensor:
        """uint8 (n, 3, height, width) on the CPU, of `rows` of `prompts` or all; with `said` progress is shown."""
        model = TextToImage(
            expander=self.setup.parts["expander"],
            flow_processor=self.flow,
            text_encoder=self.text_encoder,
            downscale=self.compressor.downscale,
            objective=self.objective,
            img_size=self.setup.data.img_size,
        )
        with self.machine.autocast():
            parts = model.generate(
                prompts,
                guidance_scale=self.setup.guidance(options.guidance_scale),
                guidance_interval=options.guidance_interval,
                steps=options.steps,
                sampler=options.sampler,
                shift=options.shift,
                seed=self.setup.seed,
                size=size,
                batch_size=GENERATION_BATCH,
                rows=rows,
            )
            if said:
                parts = self.setup.console.track(parts, said, total=-(-len(rows or prompts) // GENERATION_BATCH))
            return torch.cat(list(parts))
