"""Training of compressor and expander: reconstruction, KL, and a patch GAN, each where it is configured."""

from typing import Any, Literal

import torch
from torch import Tensor

from fluxflow_exp.data.loader import Batch, read_all
from fluxflow_exp.evaluation.during_training import ValidationMetrics
from fluxflow_exp.losses.adversarial import Adversarial
from fluxflow_exp.losses.appearance import ColorStatistics, Contrast, Histogram
from fluxflow_exp.losses.feature_matching import FeatureMatching
from fluxflow_exp.losses.frequency import Frequency
from fluxflow_exp.losses.kl import KL
from fluxflow_exp.losses.lecam import LeCam
from fluxflow_exp.losses.perceptual import Perceptual
from fluxflow_exp.losses.reconstruction import Reconstruction
from fluxflow_exp.losses.terms import Terms
from fluxflow_exp.monitor.health import HealthContext
from fluxflow_exp.seeding import generator
from fluxflow_exp.trainers import health_check, reconstructions
from fluxflow_exp.trainers.base import Trainer
from fluxflow_exp.trainers.context import StepContext
from fluxflow_exp.trainers.phase import Micro, Phase

Weights = dict[str, float | Tensor]
Conditioning = Literal["never", "always", "alternate"]


class AutoencoderTrainer(Trainer):
    """Players: `vae` (compressor, expander) and, with `adversarial`, `discriminator`.

    A loss that is absent is not computed. `spade` says in which updates the expander is conditioned through SPADE;
    `alternate` is every other one, beginning with the first.

    The adaptive GAN weight of an update comes from the gradients of the update before it, taken over the whole global
    batch: so it does not depend on the micro-batch and costs no second backward pass. It starts at 0.
    """

    PLAYERS = {"vae": ("compressor", "expander"), "discriminator": ("discriminator",)}
    NEEDS = ("compressor", "expander")
    AVERAGED = ("vae",)
    MICRO_BATCH = "autoencoder"
    METRICS = {
        **dict.fromkeys(("l1", "mse"), "reconstruction"),
        **dict.fromkeys(("l1_low", "l1_high"), "frequency"),
        **dict.fromkeys(("kl", "kl_floored"), "kl"),
        **dict.fromkeys(("g", "d", "r1", "g_weight"), "adversarial"),
        "vae": "reconstruction",
        "lpips": "perceptual",
        "color_stats": "color_stats",
        "histogram": "histogram",
        "contrast": "contrast",
        "feature_matching": "feature_matching",
        "lecam": "lecam",
        "val_l1": None,
        **{f"val_{name}": None for name in ("psnr", "ssim", "ms_ssim", "lpips", "rfd")},
    }
    REACHES = {
        **dict.fromkeys(("l1", "mse", "l1_low", "l1_high", "lpips"), NEEDS),
        **dict.fromkeys(("color_stats", "histogram", "contrast", "g", "feature_matching"), NEEDS),
        **dict.fromkeys(("kl", "kl_floored"), ("compressor",)),
        **dict.fromkeys(("d", "r1", "lecam"), ("discriminator",)),
    }

    def __init__(
        self,
        setup: StepContext,
        *,
        kl: KL,
        reconstruction: Reconstruction | None = None,
        frequency: Frequency | None = None,
        perceptual: Perceptual | None = None,
        color_stats: ColorStatistics | None = None,
        histogram: Histogram | None = None,
        contrast: Contrast | None = None,
        adversarial: Adversarial | None = None,
        feature_matching: FeatureMatching | None = None,
        lecam: LeCam | None = None,
        spade: Conditioning = "never",
    ) -> None:
        self.kl, self.perceptual, self.adversarial = kl, perceptual, adversarial
        self.feature_matching, self.lecam, self.spade = feature_matching, lecam, spade
        self.pixel_losses = [each for each in (reconstruction, frequency) if each]
        self.statistics = [each for each in (color_stats, histogram, contrast) if each]
        if adversarial and adversarial.adaptive and not self.pixel_losses:
            raise ValueError(
                "adversarial.adaptive compares with a reconstruction loss; set adaptive: false without one"
            )
        super().__init__(setup)
        self.compressor: Any = setup.parts["compressor"]
        self.expander: Any = setup.parts["expander"]
        if spade != "never" and not self.expander.has_spade:
            raise ValueError("trainer.spade needs an expander with SPADE layers: set model.spade=true")
        device, size = self.machine.device, setup.data.img_size
        self.validation_metrics = ValidationMetrics(
            setup.evaluation, of="reconstructions", img_size=size, device=device
        )
        self.adversarial_weight = torch.zeros((), device=self.machine.device)
        self.gradients: dict[str, Tensor] = {}
        self.reconstructions: list[Tensor] = []  # of this update, in the order of the rank's rows

    def starts_at(self, player: str) -> int:
        delayed = player == "discriminator" and self.adversarial is not None
        return self.adversarial.starts_at(self.length.updates) if delayed and self.adversarial else 0

    def kind(self, update: int) -> tuple[str, ...]:
        plays = self._plays(update)
        computed = {
            "gan": plays,
            "r1": plays and self.adversarial is not None and self.adversarial.r1_due(update),
            "lpips": self.perceptual is not None and self.perceptual.due(update),
            "spade": self._conditioned(update),
        }
        return tuple(name for name, yes in computed.items() if yes)

    def phases(self) -> list[Phase]:
        phases = []
        if "vae" in self.players:
            player, begin = [self.players["vae"]], self._begin_generator
            phases.append(Phase(player, self._generator, begin, self._arguments, replayed=self._replayed()))
        if self._plays(self.update_index):
            phases.append(Phase([self.players["discriminator"]], self._discriminator, self._begin_discriminator))
        return phases

    def begin_update(self, batch: Batch) -> None:
        scale, count = self.compressor.downscale, self.length.batch_size
        height, width = (side // scale for side in batch.images.shape[-2:])
        self.posterior_noise = self.noise((count, self.compressor.vae_dim, height, width), "posterior")
        source = generator(self.setup.seed, self.setup.name, self.update_index, "crop")
        self.crop_places = torch.special.ndtr(torch.randn(count, 2, generator=source))
        self.level = 0.0
        if self.adversarial and self._plays(self.update_index):
            played = self.update_index - self.players["discriminator"].start
            self.level = self.adversarial.noise_level(played)
            if self.level:
                self.instance_noise = [
                    self.noise((count, *batch.images.shape[1:]), f"instance {k}") for k in ("real", "fake")
                ]

    def scheduled(self) -> dict[str, float]:
        return {"kl_beta": self.kl.beta(self.update_index - 1, updates=self.length.updates)}

    def end_update(self) -> dict[str, Tensor]:
        if self.lecam:
            self.lecam.end_update(self.setup.ranks.mean)
        if not self.gradients:
            return {}
        assert self.adversarial
        weight = self.adversarial.adaptive_weight(
            *(self.setup.ranks.sum(self.gradients[name]).norm() for name in ("reconstruction", "adversarial"))
        )
        # An fp16 overflow leaves no ratio; the optimizer skips that update, and so does the weight.
        self.adversarial_weight = torch.where(weight.isfinite(), weight, self.adversarial_weight)
        return {"g_weight": self.adversarial_weight}

    def evaluate(self, *, last: bool, raw: bool = False) -> dict[str, float]:
        source = self.setup.data.validation
        batch = read_all(source, range(min(self.setup.evaluation.images, len(source))), seed=self.setup.seed)
        self.setup.folder.report_bad(batch.bad, self.setup.data, self.setup.console.say)
        with self.averaged(raw=raw):
            parts = torch.split(batch.images, min(self.length.micro_batch, 64))  # what fits in training fits here
            found = torch.cat([self.reconstruct(part) for part in parts])
        target = self.to_device(batch.images)
        measured = self.validation_metrics.of_reconstructions(found, batch.images, target)
        return {"val_l1": float((found - target).abs().mean()), **measured}

    def health(self, batch: Batch) -> tuple[dict[str, float], HealthContext]:
        plays = self._plays(self.update_index)
        at_once = min(self.length.micro_batch, 64)  # as for held-out metrics
        numbers = health_check.of_autoencoder(self, batch.images, at_once=at_once, plays=plays)
        played = self.update_index - self.players["discriminator"].start if plays else 0
        adaptive = self.adversarial if self.adversarial and self.adversarial.adaptive else None
        weights = (adaptive.weight, adaptive.adaptive_limit) if adaptive else None
        return numbers, HealthContext(self.setup.name, self.compressor.vae_dim, played, weights)

    def sample_pictures(self, suffix: str) -> None:
        reconstructions.write(self, suffix)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """uint8 images → reconstructions of the posterior's mean, float32 in [-1, 1] on the device."""
        with self.machine.autocast():
            found: Tensor = self.expander(self.compressor(self.to_device(images)).mode(), self.spade != "never")
        return found.float().clamp(-1, 1)

    def state_dict(self) -> dict[str, Any]:
        anchors = self.lecam.anchors if self.lecam else None
        return {**super().state_dict(), "adversarial_weight": self.adversarial_weight, "lecam": anchors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.adversarial_weight = state["adversarial_weight"].to(self.machine.device)
        if self.lecam:
            self.lecam.anchors = state["lecam"]

    def _plays(self, update: int) -> bool:
        player = self.players.get("discriminator")
        return self.adversarial is not None and player is not None and update >= player.start

    def _conditioned(self, update: int) -> bool:
        return self.spade == "always" or (self.spade == "alternate" and update % 2 == 0)

    def _replayed(self) -> bool:
        """Whether updates compute the same of images, noise and β: all do until a GAN begins."""
        return self.perceptual is None and self.spade != "alternate" and not self._plays(self.update_index)

    def _arguments(self, micro: Micro) -> tuple[Tensor, ...]:
        beta = self.kl.beta(self.update_index, updates=self.length.updates)
        there = torch.full((), beta, device=micro.images.device)
        return micro.images, self.posterior_noise[micro.rows], there, self.crop_places[micro.rows]

    def _begin_generator(self) -> None:
        self.gradients, self.reconstructions = {}, []

    def _begin_discriminator(self) -> None:
        self.reconstructions = [
            torch.cat(self.reconstructions)
        ]  # its micro-batches may be smaller than the generator's
        if self.lecam:
            self.lecam.seen = []

    def _generator(self, images: Tensor, noise: Tensor, beta: Tensor, places: Tensor) -> tuple[Terms, Weights]:
        posterior = self.compressor(images)
        found = self.expander(posterior.sample(noise), self._conditioned(self.update_index))
        terms, weights = self._image_terms(found, images, places)
        terms |= self.kl(posterior.mean, posterior.logvar)
        weights[self.kl.summed] = beta
        if self._plays(self.update_index):
            self.reconstructions.append(found.detach())
            self._add_adversarial(found, images, terms, weights)
        return terms, weights

    def _image_terms(self, found: Tensor, images: Tensor, places: Tensor) -> tuple[Terms, Weights]:
        """What compares reconstructions with images; `vae` is the weighted sum of the pixel losses."""
        terms: Terms = {}
        weights: Weights = {}
        for loss in self.pixel_losses:
            terms |= loss(found, images)
            weights |= loss.weights
        if self.pixel_losses:
            terms["vae"] = torch.stack([float(w) * terms[name] for name, w in weights.items()]).sum(0)
        for statistic in self.statistics:
            terms |= statistic(found, images)
            weights |= statistic.weights
        if self.perceptual and self.perceptual.due(self.update_index):
            terms |= self.perceptual(found, images, places)
            weights["lpips"] = self.perceptual.weight
        return terms, weights

    def _add_adversarial(self, found: Tensor, images: Tensor, terms: Terms, weights: Weights) -> None:
        assert self.adversarial
        discriminator: Any = self.setup.parts["discriminator"]
        if self.feature_matching:
            fake, logits = discriminator.features(found)
            with torch.no_grad():
                real, _ = discriminator.features(images)
            terms |= self.feature_matching(fake, real)
            weights["feature_matching"] = self.feature_matching.weight
        else:
            logits = discriminator(found)
        terms |= self.adversarial.generator(logits)
        weights["g"] = self._weigh(terms)

    def _weigh(self, terms: Terms) -> float | Tensor:
        """The generator's weight; with an adaptive one, measure the gradients for the next update."""
        assert self.adversarial
        if not self.adversarial.adaptive:
            return self.adversarial.weight
        layer = self.expander.last_layer
        if layer.requires_grad:
            scaler = self.scalers["vae"]
            for name, term in (("reconstruction", "vae"), ("adversarial", "g")):
                (gradient,) = torch.autograd.grad(scaler.scale(terms[term].sum()), layer, retain_graph=True)
                self.gradients[name] = self.gradients.get(name, 0) + gradient.float()
        return self.adversarial_weight

    def _discriminator(self, micro: Micro) -> tuple[Terms, Weights]:
        assert self.adversarial
        discriminator = self.setup.parts["discriminator"]
        first = micro.rows.start - self.ranks.share(self.length.batch_size).start
        real, fake = micro.images, self.reconstructions[0][first : first + len(micro.images)]
        if self.level:
            real, fake = (
                image + self.level * noise[micro.rows]
                for image, noise in zip((real, fake), self.instance_noise, strict=True)
            )
        real_logits, fake_logits = discriminator(real), discriminator(fake)
        terms = self.adversarial.discriminator(real_logits, fake_logits)
        weights: Weights = {"d": 1.0}
        if self.lecam:
            terms |= self.lecam(real_logits, fake_logits)
            weights["lecam"] = self.lecam.weight
        if self.adversarial.r1_due(self.update_index):
            terms |= self.adversarial.r1(discriminator, micro.images)
            weights["r1"] = 1.0
        return terms, weights
