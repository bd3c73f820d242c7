"""Training of compressor and expander: reconstruction, KL, and a patch GAN where one is configured."""

from typing import Any

import torch
from torch import Tensor

from fluxflow_exp import pictures
from fluxflow_exp.data.loader import Batch, read_all
from fluxflow_exp.losses.adversarial import Adversarial
from fluxflow_exp.losses.kl import KL
from fluxflow_exp.losses.reconstruction import Reconstruction
from fluxflow_exp.losses.terms import Terms
from fluxflow_exp.metrics import psnr
from fluxflow_exp.trainers.base import Trainer
from fluxflow_exp.trainers.setup import Setup
from fluxflow_exp.trainers.turn import Micro, Turn

Weights = dict[str, float | Tensor]


class AutoencoderTrainer(Trainer):
    """Players: `vae` (compressor, expander) and, with `adversarial`, `discriminator`.

    The adaptive GAN weight of an update comes from the gradients of the update before it, taken over the whole global
    batch: so it does not depend on the micro-batch and costs no second backward pass. It starts at 0.
    """

    PLAYERS = {"vae": ("compressor", "expander"), "discriminator": ("discriminator",)}
    NEEDS = ("compressor", "expander")
    AVERAGED = ("vae",)
    MICRO_BATCH = "autoencoder"

    def __init__(
        self,
        setup: Setup,
        *,
        reconstruction: Reconstruction,
        kl: KL,
        adversarial: Adversarial | None = None,
    ) -> None:
        self.reconstruction, self.kl, self.adversarial = reconstruction, kl, adversarial
        super().__init__(setup)
        self.compressor: Any = setup.parts["compressor"]
        self.expander: Any = setup.parts["expander"]
        self.adversarial_weight = torch.zeros((), device=self.machine.device)
        self.gradients: dict[str, Tensor] = {}
        self.reconstructions: dict[int, Tensor] = {}

    def starts_at(self, player: str) -> int:
        delayed = player == "discriminator" and self.adversarial is not None
        return self.adversarial.starts_at(self.length.updates) if delayed and self.adversarial else 0

    def turns(self) -> list[Turn]:
        turns = [Turn([self.players["vae"]], self._generator)] if "vae" in self.players else []
        if self._plays():
            turns.append(Turn([self.players["discriminator"]], self._discriminator))
        return turns

    def begin_update(self, batch: Batch) -> None:
        scale = self.compressor.downscale
        height, width = (side // scale for side in batch.images.shape[-2:])
        shape = (len(batch.images), self.compressor.vae_dim, height, width)
        self.posterior_noise = self.noise(shape, "posterior")
        self.gradients, self.reconstructions = {}, {}

    def end_update(self) -> dict[str, float]:
        if not self.gradients:
            return {}
        assert self.adversarial
        weight = self.adversarial.adaptive_weight(
            self.gradients["reconstruction"].norm(), self.gradients["adversarial"].norm()
        )
        # An fp16 overflow leaves no ratio; the optimizer skips that update, and so does the weight.
        self.adversarial_weight = torch.where(weight.isfinite(), weight, self.adversarial_weight)
        return {"g_weight": float(self.adversarial_weight)}

    def evaluate(self, *, last: bool) -> dict[str, float]:
        images = self._held_out(self.setup.evaluation.images)
        with self.averaged():
            found = torch.cat([self._reconstruct(part) for part in torch.split(images, 64)])
        target = self.to_device(images)
        return {
            "val_l1": float((found - target).abs().mean()),
            "val_psnr": float(psnr(found, target).mean()),
        }

    def sample_pictures(self, suffix: str) -> None:
        """Held-out images beside their deterministic reconstruction (of the posterior mean)."""
        images = self._held_out(self.setup.samples.count)
        with self.averaged():
            found = pictures.to_uint8(self._reconstruct(images))
        name, index = self.setup.name, self.setup.index
        for original, copy, key in zip(images, found, self._ids, strict=False):
            stem = f"{name}_{index:03d}_{suffix}_{pictures.short_hash(key)}"
            pictures.save(original, self.setup.folder.samples / f"{stem}-original.webp")
            pictures.save(copy, self.setup.folder.samples / f"{stem}-nr_o.webp")
        sheet = pictures.rows_of([images, found.cpu()], labels=["original", "reconstruction"])
        sheet.save(self.setup.folder.samples / f"{name}_{index:03d}_{suffix}_grid.webp", quality=95)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "adversarial_weight": self.adversarial_weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.adversarial_weight = state["adversarial_weight"].to(self.machine.device)

    def _plays(self) -> bool:
        player = self.players.get("discriminator")
        return self.adversarial is not None and player is not None and self.update_index >= player.start

    def _generator(self, micro: Micro) -> tuple[Terms, Weights]:
        posterior = self.compressor(micro.images)
        found = self.expander(posterior.sample(self.posterior_noise[micro.rows]))
        self.reconstructions[micro.rows.start] = found.detach()
        terms = self.reconstruction(found, micro.images)
        weights: Weights = dict(self.reconstruction.weights)
        terms["vae"] = sum((w * terms[n] for n, w in self.reconstruction.weights.items()), torch.tensor(0.0))
        terms |= self.kl(posterior.mean, posterior.logvar)
        weights[self.kl.summed] = self.kl.beta(self.update_index, updates=self.length.updates)
        if self._plays():
            assert self.adversarial
            terms |= self.adversarial.generator(self.setup.parts["discriminator"](found))
            weights["g"] = self._weigh(terms)
        return terms, weights

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
        fake = self.reconstructions[micro.rows.start]
        terms = self.adversarial.discriminator(discriminator(micro.images), discriminator(fake))
        weights: Weights = {"d": 1.0}
        if self.adversarial.r1_due(self.update_index):
            terms |= self.adversarial.r1(discriminator, micro.images)
            weights["r1"] = 1.0
        return terms, weights

    @torch.no_grad()
    def _reconstruct(self, images: Tensor) -> Tensor:
        with self.machine.autocast():
            found: Tensor = self.expander(self.compressor(self.to_device(images)).mean)
        return found.float().clamp(-1, 1)

    def _held_out(self, count: int) -> Tensor:
        """The first `count` held-out images, uint8."""
        source = self.setup.data.validation
        batch = read_all(source, range(min(count, len(source))), seed=self.setup.seed)
        self.setup.folder.report_bad(batch.bad, self.setup.data)
        self._ids = batch.ids
        return batch.images
