"""A patch GAN: hinge losses, lazy R1, the generator's adaptive weight, and what they keep from update to update."""

from collections.abc import Callable
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from fluxflow_exp.config.bounds import NonNegativeFloat, PositiveFloat, PositiveInt
from fluxflow_exp.losses.feature_matching import FeatureMatching
from fluxflow_exp.losses.lecam import LeCam
from fluxflow_exp.losses.terms import Terms, Weights, per_sample


class Adversarial:
    """A patch GAN with hinge losses (Lim & Ye 2017; patches: Isola et al. 2017).

    `start` delays both players (share of the step's updates when < 1, else updates); left out, as runs may have it,
    they begin with the step, and each shipped stage says its own. `r1_gamma` penalises the discriminator's gradient on
    real images (Mescheder et al. 2018), every `r1_interval` updates and scaled by the interval (lazy regularisation,
    Karras et al. 2020, appendix B). With `adaptive`, the generator's weight is `weight` × ‖∇ reconstruction‖ / ‖∇
    adversarial‖ at the decoder's last layer (Esser et al. 2021, eq. 7), between 0 and `adaptive_limit` × `weight`: a
    ratio of norms, so it cannot turn negative. It comes from the gradients of the update before, summed over the whole
    global batch: so it does not depend on the micro-batch and costs no second backward pass. It starts at 0.
    `instance_noise` is the deviation of Gaussian noise added to what the discriminator trains on (Sønderby et al.
    2017), times `instance_noise_decay` an update.
    """

    def __init__(
        self,
        *,
        weight: NonNegativeFloat = 0.1,
        adaptive: bool = True,
        adaptive_limit: PositiveFloat = 100.0,
        start: NonNegativeFloat = 0.0,
        r1_gamma: NonNegativeFloat = 1.0,
        r1_interval: PositiveInt = 16,
        instance_noise: NonNegativeFloat = 0.0,
        instance_noise_decay: Annotated[float, Interval(gt=0, le=1)] = 0.9999,
    ) -> None:
        if min(weight, start, r1_gamma, instance_noise) < 0 or r1_interval < 1:
            raise ValueError(
                "adversarial: weight, start, r1_gamma and instance_noise must be ≥ 0 and r1_interval ≥ 1, not "
                f"{weight}, {start}, {r1_gamma}, {instance_noise}, {r1_interval}"
            )
        if not 0 < instance_noise_decay <= 1:
            raise ValueError(f"adversarial: instance_noise_decay must be in (0, 1], not {instance_noise_decay}")
        self.instance_noise, self.instance_noise_decay = instance_noise, instance_noise_decay
        self.weight, self.adaptive, self.adaptive_limit = weight, adaptive, adaptive_limit
        self.start, self.r1_gamma, self.r1_interval = start, r1_gamma, r1_interval

    def face(
        self,
        discriminator: Any,
        *,
        first: int | None,
        device: torch.device,
        feature_matching: FeatureMatching | None = None,
        lecam: LeCam | None = None,
    ) -> None:
        """Train against `discriminator` from update `first` on; None: it is frozen, and nothing plays."""
        self.opponent, self.first, self.feature_matching, self.lecam = discriminator, first, feature_matching, lecam
        # The adaptive weight, of the update before, and the gradients at the decoder's last layer, summed over this
        # update. Both stay where they are in memory: replayed passes read the one and add to the other.
        self.adapted = torch.zeros((), device=device)
        self.gradients: dict[str, Tensor] = {}
        self.fakes = torch.empty(0, device=device)  # reconstructions of this update, of the rank's share
        self.level, self.noises = 0.0, [torch.empty(0)] * 2
        self.began = False

    def plays(self, update: int) -> bool:
        return self.first is not None and update >= self.first

    def played(self, update: int) -> int:
        """The discriminator's updates before `update`."""
        return update - self.first if self.first is not None and self.plays(update) else 0

    def begin_update(
        self, update: int, shape: tuple[int, ...], noise: Callable[[tuple[int, ...], str], Tensor]
    ) -> bool:
        """Draw the instance noise by `noise(shape, purpose)`; `shape` is that of the global batch of images.

        True: passes are of other kinds than in the update before, for the GAN begins.
        """
        begins, self.began = self.plays(update) != self.began, self.plays(update)
        self.update, self.level = update, 0.0
        if self.plays(update):
            self.level = self.noise_level(self.played(update))
        if self.level:
            self.noises = [noise(shape, f"instance {kind}") for kind in ("real", "fake")]
        return begins

    def begin_generator(self) -> None:
        self.fakes = self.fakes.new_empty(0)
        for gradient in self.gradients.values():
            gradient.zero_()

    def end_generator(self, terms: Terms) -> None:
        self.fakes = terms.pop("fakes")

    def generator_terms(
        self,
        fakes: Tensor,
        images: Tensor,
        reconstruction: Tensor | None,
        layer: Tensor | None,
        scaler: torch.amp.GradScaler,
    ) -> tuple[Terms, Weights]:
        """`g` and, with feature matching, `feature_matching` of reconstructions (micro-batch, 3, height, width).

        `fakes` are these, for the discriminator. `reconstruction`, (micro-batch,), is what an adaptive weight compares
        with at the decoder's last `layer`; without one neither is asked for.
        """
        terms: Terms = {"fakes": fakes.detach()}
        weights: Weights = {}
        if self.feature_matching:
            found, logits = self.opponent.features(fakes)
            with torch.no_grad():
                wanted, _ = self.opponent.features(images)
            terms |= self.feature_matching(found, wanted)
            weights["feature_matching"] = self.feature_matching.weight
        else:
            logits = self.opponent(fakes)
        terms |= self.generator(logits)
        weights["g"] = self.weight
        if self.adaptive:
            assert reconstruction is not None
            assert layer is not None
            weights["g"] = self.adapt(reconstruction, terms["g"], layer, scaler)
        return terms, weights

    def adapt(self, reconstruction: Tensor, adversarial: Tensor, layer: Tensor, scaler: torch.amp.GradScaler) -> Tensor:
        """The weight that the update before gave; the gradients of this one's terms are added up for the next."""
        if layer.requires_grad:
            for name, term in (("reconstruction", reconstruction), ("adversarial", adversarial)):
                (gradient,) = torch.autograd.grad(scaler.scale(term.sum()), layer, retain_graph=True)
                if name not in self.gradients:
                    self.gradients[name] = torch.zeros_like(gradient, dtype=torch.float32)
                self.gradients[name] += gradient
        return self.adapted

    def discriminator_arguments(self, images: Tensor, rows: slice, share: slice) -> tuple[Tensor, ...]:
        """What `discriminator_terms` takes; what is off is empty.

        The images are `rows` of the global batch, and `share` of this rank's part of it.
        """
        none = images.new_empty(0)
        noises = [self.level * noise[rows] for noise in self.noises] if self.level else [none, none]
        anchors = self.lecam.anchors if self.lecam else None
        return images, self.fakes[share], *noises, none if anchors is None else anchors

    def discriminator_terms(
        self, images: Tensor, fakes: Tensor, real_noise: Tensor, fake_noise: Tensor, anchors: Tensor
    ) -> tuple[Terms, Weights]:
        """`d` and, where they are due, `lecam` and `r1` of images and reconstructions (micro-batch, 3, height, width).

        Noise is added to both, unless it is empty; `anchors`: see LeCam.
        """
        real, fake = (images + real_noise, fakes + fake_noise) if len(real_noise) else (images, fakes)
        real_logits, fake_logits = self.opponent(real), self.opponent(fake)
        terms = self.discriminator(real_logits, fake_logits)
        weights: Weights = {"d": 1.0}
        if self.lecam:
            terms |= self.lecam(real_logits, fake_logits, anchors)
            weights["lecam"] = self.lecam.weight
        if self.r1_due(self.update):
            terms |= self.r1(self.opponent, images)
            weights["r1"] = 1.0
        return terms, weights

    def end_discriminator(self, terms: Terms) -> None:
        if self.lecam:
            self.lecam.seen = terms.pop("lecam_seen")

    def end_update(self, *, total: Callable[[Tensor], Tensor], mean: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Move what spans updates; `total` and `mean` are over ranks. Gives the next update's adaptive weight ()."""
        if self.lecam:
            self.lecam.end_update(mean)
        if not self.gradients:
            return {}
        norms = (total(self.gradients[name]).norm() for name in ("reconstruction", "adversarial"))
        weight = self.adaptive_weight(*norms)
        # An fp16 overflow leaves no ratio; the optimizer skips that update, and so does the weight.
        self.adapted.copy_(torch.where(weight.isfinite(), weight, self.adapted))
        return {"g_weight": self.adapted}

    def state_dict(self) -> dict[str, Any]:
        return {"adversarial_weight": self.adapted, "lecam": self.lecam.anchors if self.lecam else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adapted.copy_(state["adversarial_weight"])
        if self.lecam:
            self.lecam.anchors = state["lecam"]

    def starts_at(self, updates: int) -> int:
        """The first update of both players in a step of `updates`."""
        return round(self.start * updates) if self.start < 1 else int(self.start)

    def r1_due(self, update: int) -> bool:
        return self.r1_gamma > 0 and update % self.r1_interval == 0

    def noise_level(self, updates: int) -> float:
        """The deviation of the instance noise after so many updates of the discriminator."""
        return self.instance_noise * self.instance_noise_decay**updates

    def generator(self, fake_logits: Tensor) -> Terms:
        """`g`: -mean of the patch logits (batch, 1, h, w) of reconstructions."""
        return {"g": -per_sample(fake_logits.float())}

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Terms:
        """`d`: hinge loss, patch by patch."""
        real = per_sample(F.relu(1 - real_logits.float()))
        fake = per_sample(F.relu(1 + fake_logits.float()))
        return {"d": real + fake}

    def r1(self, discriminator: nn.Module, images: Tensor) -> Terms:
        """`r1`: γ/2 ‖∇ₓ mean patch logit‖² × interval, in float32 whatever the autocast."""
        with torch.autocast(images.device.type, enabled=False):
            images = images.detach().float().requires_grad_()
            logits = per_sample(discriminator(images))
            (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        penalty = gradient.square().flatten(1).sum(1)
        return {"r1": 0.5 * self.r1_gamma * self.r1_interval * penalty}

    def adaptive_weight(self, reconstruction_norm: Tensor, adversarial_norm: Tensor) -> Tensor:
        """The generator's weight for two gradient norms (scalars ≥ 0)."""
        ratio = reconstruction_norm / (adversarial_norm + 1e-6)
        return self.weight * ratio.clamp(0.0, self.adaptive_limit)
