"""Measuring the health of what trains, on held-out images, with the weights as they are trained (no averages).

The numbers are functions of the update: of weights, held-out images and earlier rows. Nothing is drawn at random.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow_exp.models.bezier import BezierActivation, TrainableBezier
from fluxflow_exp.models.layers import AlignedConv2d
from fluxflow_exp.monitor import health
from fluxflow_exp.run.metric_log import Row, read_rows_from

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, BezierActivation, TrainableBezier)
STILL = 1e-6  # range of a channel, as a share of the largest value that its activation gives


class Checkup:
    """Judges a step's health by what was measured now and by the rows that it has written since the last time."""

    def __init__(self, path: Path) -> None:
        self.path = path  # of the step's rows
        self.offset = 0  # byte up to which they have been read
        self.recent: list[Row] = []  # those that a spike is sought among
        self.last: Row | None = None  # the newest row of kind health

    def judge(
        self, measured: dict[str, float], context: health.HealthContext, losses: list[str]
    ) -> tuple[dict[str, float], dict[str, str], list[str]]:
        """All metrics of a row of kind `health`, its warnings by code, and what is new in them, a line each.

        `losses` are the user's own terms, in which spikes are sought, too.
        """
        since = self._read_rows()
        metrics = {**measured, **self._of_rows(since)}
        score, spike = health.largest_spike(self.recent, [*health.SPIKING, *losses], since=since)
        if score is not None:
            metrics["loss_spike"] = score
        found = health.warnings(metrics, context, spike=spike)
        before = self.last["warnings"] if self.last and "warnings" in self.last else {}
        news = [f"Health: {code}: {sentence}" for code, sentence in found.items() if code not in before]
        return metrics, found, [*news, *(f"Health: {code} has cleared" for code in before if code not in found)]

    def _read_rows(self) -> int:
        """Take in what was logged since the last time; the update of the last health row."""
        rows, self.offset = read_rows_from(self.path, self.offset)
        for row in rows:
            if row["kind"] == "health":
                self.last = row
        since = self.last["global_step"] if self.last else 0
        trained = [row for row in [*self.recent, *rows] if row["kind"] == "train"]
        fresh = sum(row["global_step"] > since for row in trained)
        self.recent = trained[-(fresh + health.SPIKE_ROWS) :]
        return since

    def _of_rows(self, since: int) -> dict[str, float]:
        """Medians over the rows since the last time of what is logged of a GAN anyway."""
        rows = [row["metrics"] for row in self.recent if row["global_step"] > since]
        ratios = [
            row["discriminator_norm"] / row["vae_norm"]
            for row in rows
            if row.get("discriminator_norm") is not None and row.get("vae_norm")
        ]
        weights = [row["g_weight"] for row in rows if row.get("g_weight") is not None]
        found = {"gradient_ratio": ratios, "adaptive_weight": weights}
        return {name: statistics.median(values) for name, values in found.items() if values}


class Activity(ExitStack):
    """Inside a `with` block: which channels of the activations in `parts` change over images and positions.

    A channel whose values all lie within a millionth of its activation's largest one counts as dead: a ReLU that is
    never positive is, and so are SiLU, GELU and Bezier where they are flat. What is never called is not counted.
    """

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()  # keeps the hooks, and removes them at the end of the block
        self.seen: dict[tuple[nn.Module, int], _Range] = {}  # an activation may act at several widths
        self._parts = parts

    def __enter__(self) -> Activity:
        for part in self._parts:
            before: nn.Module | None = None
            for module in part.modules():
                if isinstance(module, ACTIVATIONS):
                    self.enter_context(module.register_forward_hook(_RangeHook(self, _own_channels(before, module))))
                elif isinstance(module, nn.Conv2d | nn.Linear):
                    before = module
        return self

    def numbers(self) -> dict[str, float]:
        """`dead_activations`: share of all channels, `dead_in_one`: the largest share in one activation; {} of none."""
        shares = [each.dead().double() for each in self.seen.values()]
        if not shares:
            return {}
        means = torch.stack([share.mean() for share in shares])
        return {"dead_activations": float(torch.cat(shares).mean()), "dead_in_one": float(means.max())}


class _Range(NamedTuple):
    low: Tensor  # (channels,)
    high: Tensor

    def dead(self) -> Tensor:
        """(channels,) bool."""
        return (self.high - self.low) <= STILL * torch.maximum(self.low.abs(), self.high.abs()).max()


class _RangeHook:
    """A forward hook. `own`: channels that are not padding; None: all."""

    def __init__(self, activity: Activity, own: int | None) -> None:
        self.activity, self.own = activity, own

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        # Tokens and vectors have channels last, images second; only Bezier says which.
        dim = module.dim if isinstance(module, BezierActivation | TrainableBezier) else 1 if output.ndim == 4 else -1
        rows = output.detach().float().movedim(dim, 0).flatten(1)[: self.own]
        low, high = rows.amin(1), rows.amax(1)
        place = module, len(rows)
        if place in self.activity.seen:
            before = self.activity.seen[place]
            low, high = torch.minimum(low, before.low), torch.maximum(high, before.high)
        self.activity.seen[place] = _Range(low, high)


def _own_channels(before: nn.Module | None, module: nn.Module) -> int | None:
    """A GPU fills the channels of an AlignedConv2d up with zeros, which its activation passes on."""
    if not isinstance(before, AlignedConv2d):
        return None
    return before.out_channels // (5 if isinstance(module, BezierActivation) else 1)


def latent_numbers(latents: Tensor) -> dict[str, float]:
    """Measure (n, channels, h, w): `latent_std`, over everything, and `latent_max`, the largest magnitude."""
    latents = latents.float()
    return {"latent_std": float(latents.std(correction=0)), "latent_max": float(latents.abs().max())}


def active_units(means: Tensor) -> dict[str, float]:
    """Count the channels of posterior means (n, channels, h, w) that differ from image to image (Burda et al. 2016).

    A channel's variance over images is averaged over positions: one that always shows the same pattern is not active.
    """
    variance = means.float().var(0, correction=0).mean((1, 2))
    return {"active_units": float((variance > health.ACTIVE_VARIANCE).sum())}


def logit_numbers(real: Tensor, fake: Tensor) -> dict[str, float]:
    """Measure patch logits (n, 1, h, w): `logit_gap`, mean real minus fake, and `hinge_loss`, which is 2 by chance."""
    real, fake = real.float(), fake.float()
    hinge = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return {"logit_gap": float(real.mean() - fake.mean()), "hinge_loss": float(hinge)}
