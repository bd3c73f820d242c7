"""Hinge GAN loss on patch logits, lazy R1, and the adaptive generator weight."""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from fluxflow_exp.config.bounds import NonNegativeFloat, PositiveFloat, PositiveInt
from fluxflow_exp.losses.terms import Terms, per_sample


class Adversarial:
    """A patch GAN with hinge losses (Lim & Ye 2017; patches: Isola et al. 2017).

    `start` delays both players (share of the step's updates when < 1, else updates). `r1_gamma` penalises the
    discriminator's gradient on real images (Mescheder et al. 2018), every `r1_interval` updates and scaled by the
    interval (lazy regularisation, Karras et al. 2020, appendix B). With `adaptive`, the generator's weight is
    `weight` × ‖∇ reconstruction‖ / ‖∇ adversarial‖ at the decoder's last layer (Esser et al. 2021, eq. 7), between 0
    and `adaptive_limit` × `weight`: a ratio of norms, so it cannot turn negative. `instance_noise` is the deviation of
    Gaussian noise added to what the discriminator trains on (Sønderby et al. 2017), times `instance_noise_decay` an
    update.
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
