"""Training of compressor and expander: reconstruction, KL, and a patch GAN, each where it is configured."""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from fluxflow_exp.config.bounds import Share
from fluxflow_exp.data.loader import Batch
from fluxflow_exp.evaluation.during_training import ValidationMetrics
from fluxflow_exp.losses.adversarial import Adversarial
from fluxflow_exp.losses.appearance import ColorStatistics, Contrast, Histogram
from fluxflow_exp.losses.equivariance import Equivariance
from fluxflow_exp.losses.feature_matching import FeatureMatching
from fluxflow_exp.losses.frequency import Frequency
from fluxflow_exp.losses.kl import KL
from fluxflow_exp.losses.lecam import LeCam
from fluxflow_exp.losses.perceptual import Perceptual
from fluxflow_exp.losses.reconstruction import Reconstruction
from fluxflow_exp.losses.terms import Loss, Terms, Weights, computed
from fluxflow_exp.monitor.health import HealthContext
from fluxflow_exp.seeding import generator
from fluxflow_exp.trainers import reconstructions, shared
from fluxflow_exp.trainers.base import Trainer
from fluxflow_exp.trainers.context import StepContext
from fluxflow_exp.trainers.health_check import active_units, latent_numbers, logit_numbers
from fluxflow_exp.trainers.phase import Micro, Phase

Conditioning = Literal["never", "always", "alternate"]


class AutoencoderTrainer(Trainer):
    """Players: `vae` (compressor, expander) and, with `adversarial`, `discriminator`.

    A loss that is absent is not computed. `spade` says in which updates the expander is conditioned through SPADE;
    `alternate` is every other one, beginning with the first. With `latent_noise` the expander gets latents z that were
    moved towards normal noise ε, (1 - τ) z + τ ε, each sample's τ drawn from [0, latent_noise] (l-DeTok; Yang et al.
    2025, arXiv 2507.15856, section 3). Without `kl` the compressor must be frozen. `losses` are the user's own (see
    losses/terms.py).
    """

    PLAYERS = {"vae": ("compressor", "expander"), "discriminator": ("discriminator",)}
    NEEDS = ("compressor", "expander")
    AVERAGED = ("vae",)
    MICRO_BATCH = "autoencoder"
    GIVES = ("reconstruction", "images")
    METRICS = {
        **dict.fromkeys(("l1", "mse"), "reconstruction"),
        "log_mse": "reconstruction.log_mse",
        **dict.fromkeys(("l1_low", "l1_high"), "frequency"),
        "kl": "kl",
        "kl_floored": "kl.free_bits",
        **dict.fromkeys(("g", "d", "r1", "g_weight"), "adversarial"),
        "vae": "reconstruction",
        "lpips": "perceptual",
        "equivariance": "equivariance",
        **{name: name for name in ("color_stats", "histogram", "contrast", "feature_matching", "lecam")},
        "val_l1": None,
        **{f"val_{name}": None for name in ("psnr", "ssim", "ms_ssim", "lpips", "rfd")},
    }
    REACHES = {
        **dict.fromkeys(("l1", "mse", "log_mse", "l1_low", "l1_high", "lpips", "equivariance"), NEEDS),
        **dict.fromkeys(("color_stats", "histogram", "contrast", "g", "feature_matching"), NEEDS),
        **dict.fromkeys(("kl", "kl_floored"), ("compressor",)),
        **dict.fromkeys(("d", "r1", "lecam"), ("discriminator",)),
    }

    # A loss a key, each with its type: that is what a step's YAML may say.
    def __init__(
        self,
        setup: StepContext,
        *,
        kl: KL | None = None,
        reconstruction: Reconstruction | None = None,
        frequency: Frequency | None = None,
        perceptual: Perceptual | None = None,
        color_stats: ColorStatistics | None = None,
        histogram: Histogram | None = None,
        contrast: Contrast | None = None,
        adversarial: Adversarial | None = None,
        feature_matching: FeatureMatching | None = None,
        lecam: LeCam | None = None,
        equivariance: Equivariance | None = None,
        latent_noise: Share | None = None,
        spade: Conditioning = "never",
        **losses: Loss,
    ) -> None:
        self.kl, self.perceptual, self.adversarial, self.spade = kl, perceptual, adversarial, spade
        self.equivariance, self.latent_noise = equivariance, latent_noise or 0.0
        self.pixel_losses = [each for each in (reconstruction, frequency) if each]
        self.statistics = [each for each in (color_stats, histogram, contrast) if each]
        if adversarial and adversarial.adaptive and not self.pixel_losses:
            raise ValueError(
                "adversarial.adaptive compares with a reconstruction loss; set adaptive: false without one"
            )
        super().__init__(setup, losses)
        self.compressor: Any = setup.parts["compressor"]
        self.expander: Any = setup.parts["expander"]
        if spade != "never" and not self.expander.has_spade:
            raise ValueError("trainer.spade needs an expander with SPADE layers: set model.spade=true")
        device, size = self.machine.device, setup.data.img_size
        self.validation_metrics = ValidationMetrics(
            setup.evaluation, of="reconstructions", img_size=size, device=device
        )
        if adversarial:
            opponent = self.players.get("discriminator")
            adversarial.face(
                setup.parts.get("discriminator"),
                first=opponent.start if opponent else None,
                device=device,
                feature_matching=feature_matching,
                lecam=lecam,
            )

    @property
    def loss_tells(self) -> bool:
        return self.adversarial is None  # which sharpens pictures while their pixels' error rises

    def starts_at(self, player: str) -> int:
        plays = self.adversarial if player == "discriminator" else None
        return plays.starts_at(self.length.updates) if plays else 0

    def kind(self, update: int) -> tuple[str, ...]:
        faced = self.adversarial and self.adversarial.first is not None
        gan = self.adversarial if faced and update >= self.starts_at("discriminator") else None
        kinds = {
            "gan": gan,
            "r1": gan and gan.r1_due(update),
            "lpips": self.perceptual and self.perceptual.due(update),
            "equivariance": self.equivariance and self.equivariance.due(update),
            "spade": self._conditioned(update),
        }
        return tuple(name for name, yes in kinds.items() if yes)

    def phases(self) -> list[Phase]:
        phases = []
        gan = self._gan(self.update_index)
        if "vae" in self.players:
            kind = tuple(name for name in self.kind(self.update_index) if name != "r1")
            phase = Phase([self.players["vae"]], self._generator, arguments=self._arguments, replayed=self._replayed())
            phase.key = ("vae", kind) if self.adversarial or self.perceptual else None
            phases.append(replace(phase, begin=gan.begin_generator, end=gan.end_generator) if gan else phase)
        if gan:
            phase = Phase([self.players["discriminator"]], gan.discriminator_terms, end=gan.end_discriminator)
            phase.arguments = lambda micro: gan.discriminator_arguments(micro.images, micro.rows, micro.share)
            phase.replayed, phase.key = True, ("discriminator", gan.r1_due(self.update_index))
            phases.append(phase)
        return phases

    def begin_update(self, batch: Batch) -> None:
        scale, count = self.compressor.downscale, self.length.batch_size
        height, width = (side // scale for side in batch.images.shape[-2:])
        shape = (count, self.compressor.vae_dim, height, width)
        self.posterior_noise = self.noise(shape, "posterior")
        # Empty is off: shapes then tell a GPU which of its graphs a pass replays.
        self.noise_levels = self.latent_noises = self.turns = self.posterior_noise.new_empty(0)
        if self.latent_noise:
            self.noise_levels = self.latent_noise * torch.special.ndtr(self.noise((count, 1, 1, 1), "latent level"))
            self.latent_noises = self.noise(shape, "latent")
        if self.equivariance and self.equivariance.due(self.update_index):
            key = (self.setup.seed, self.setup.name, self.update_index, "turns")
            self.turns = self.equivariance.turns(count, generator(*key, device=self.machine.device))
        source = generator(self.setup.seed, self.setup.name, self.update_index, "crop")
        self.crop_places = torch.special.ndtr(torch.randn(count, 2, generator=source))
        gan, shape = self.adversarial, (count, *batch.images.shape[1:])
        if gan and gan.begin_update(self.update_index, shape, self.noise):
            self.accumulation.forget_graphs()  # those without a GAN, whose memory is needed now

    def scheduled(self) -> dict[str, float]:
        return {"kl_beta": self.kl.beta(self.update_index - 1, updates=self.length.updates)} if self.kl else {}

    def end_update(self) -> dict[str, Tensor]:
        ranks = self.ranks
        return self.adversarial.end_update(total=ranks.sum, mean=ranks.mean) if self.adversarial else {}

    def evaluate(self, *, last: bool, raw: bool = False) -> dict[str, float]:
        batch, portion = shared.measured(self.setup)
        with self.averaged(raw=raw):
            parts = torch.split(batch.images, min(self.accumulation.micro_batch, 64))  # what fits in training fits here
            found = torch.cat([self.reconstruct(part) for part in parts])
        target = self.machine.to_device(batch.images)
        error = (found - target)[: portion.own].abs().mean()
        measured = self.validation_metrics.of_reconstructions(found, batch.images, target, portion)
        return {"val_l1": portion.mean(float(error)), **measured}

    def health(self, batch: Batch) -> tuple[dict[str, float], HealthContext]:
        gan, played, weights = self._gan(self.update_index), 0, None
        means, latents, real, fake = [], [], [], []
        for part in torch.split(batch.images, min(self.accumulation.micro_batch, 64)):  # as for held-out metrics
            images = self.machine.to_device(part)
            posterior = self.compressor(images)
            means.append(posterior.mean.float())
            latents.append(posterior.mode().float())
            found = self.expander(latents[-1], self.spade != "never")
            if gan:
                real.append(gan.opponent(images))
                fake.append(gan.opponent(found))
        numbers = {**active_units(torch.cat(means)), **latent_numbers(torch.cat(latents))}
        if gan:
            numbers = {**logit_numbers(torch.cat(real), torch.cat(fake)), **numbers}
            played = gan.played(self.update_index)
        if self.adversarial and self.adversarial.adaptive:
            weights = self.adversarial.weight, self.adversarial.adaptive_limit
        return numbers, HealthContext(self.setup.name, self.compressor.vae_dim, played, weights)

    def sample_pictures(self, suffix: str) -> None:
        setup = self.setup
        images, ids, portion = reconstructions.originals(setup)
        with self.averaged():
            parts, conditioned = (self.compressor, self.expander), self.spade != "never"
            made = reconstructions.rows(images, ids, *parts, self.machine, seed=setup.seed, conditioned=conditioned)
        stem = f"{setup.name}_{setup.index:03d}_{suffix}"
        drawn, folder = self.drawn(), setup.folder.samples
        written, tiles = reconstructions.write(made, ids, folder, stem, portion, title=self.title(drawn))
        self.write_row("samples", {}, pictures=written, tiles=tiles, drawn=drawn)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """uint8 images → reconstructions of the posterior's mean, float32 in [-1, 1] on the device."""
        with self.machine.autocast():
            found: Tensor = self.expander(self.compressor(self.machine.to_device(images)).mode(), self.spade != "never")
        return found.float().clamp(-1, 1)

    def state_dict(self) -> dict[str, Any]:
        none = {"adversarial_weight": torch.zeros((), device=self.machine.device), "lecam": None}
        return {**super().state_dict(), **(self.adversarial.state_dict() if self.adversarial else none)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.adversarial:
            self.adversarial.load_state_dict(state)

    def _gan(self, update: int) -> Adversarial | None:
        """The adversarial loss, if it plays in `update`."""
        return self.adversarial if self.adversarial and self.adversarial.plays(update) else None

    def _conditioned(self, update: int) -> bool:
        return self.spade == "always" or (self.spade == "alternate" and update % 2 == 0)

    def _replayed(self) -> bool:
        """Whether the generator's passes are functions of tensors that leave the same parameters with gradients.

        The host cuts LPIPS's crops. SPADE's layers have no gradient in updates without it, and an optimizer passes over
        them; one that is kept for graphs is zero, and moves weights by their momentum.
        """
        cropped = self.perceptual is not None and self.perceptual.crop is not None
        return not (cropped or self.losses or self.spade == "alternate")

    def _arguments(self, micro: Micro) -> tuple[Tensor, ...]:
        beta = self.kl.beta(self.update_index, updates=self.length.updates) if self.kl else 0.0
        there = torch.full((), beta, device=micro.images.device)
        drawn = (self.posterior_noise, self.crop_places, self.noise_levels, self.latent_noises, self.turns)
        return micro.images, there, *(each[micro.rows] for each in drawn)

    # Arguments are tensors, so that a GPU can replay a pass.
    def _generator(
        self, images: Tensor, beta: Tensor, noise: Tensor, places: Tensor, levels: Tensor, noises: Tensor, turns: Tensor
    ) -> tuple[Terms, Weights]:
        posterior = self.compressor(images)
        latents = posterior.sample(noise)
        if len(levels):
            latents = torch.lerp(latents.float(), noises, levels)
        conditioned = self._conditioned(self.update_index)
        found = self.expander(latents, conditioned)
        terms, weights = self._image_terms(found, images, places)
        if self.equivariance and len(turns):
            terms |= self.equivariance(latents, images, turns, lambda z: self.expander(z, conditioned))
            weights["equivariance"] = self.equivariance.weight
        if self.kl:
            assert posterior.logvar is not None
            terms |= self.kl(posterior.mean, posterior.logvar)
            weights[self.kl.summed] = beta
        gan = self._gan(self.update_index)
        if gan:
            layer = self.expander.last_layer if gan.adaptive else None
            further, their_weights = gan.generator_terms(found, images, terms.get("vae"), layer, self.scalers["vae"])
            terms |= further
            weights |= their_weights
        return terms, weights

    def _image_terms(self, found: Tensor, images: Tensor, places: Tensor) -> tuple[Terms, Weights]:
        """Compare reconstructions with images; `vae` is the weighted sum of the pixel losses."""
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
        further, their_weights = computed(self.losses, found, images)
        return terms | further, weights | their_weights
