"""Signs that training goes wrong: limits of the numbers in rows of kind `health`, and what to try beyond them.

Limits are set where hardly a sound run comes, so that a warning is worth reading; the numbers themselves are in the
rows and in `graph/health.png`. They are measured by trainers/health_check.py; spikes are found in the rows of losses.
"""

import statistics
from dataclasses import dataclass

from fluxflow_exp.run.metric_log import Row

# A hinge discriminator that cannot tell gives 2 (both margins missed by 1); 0 is reached when every patch is told apart
# by its whole margin, where nothing is left to learn from.
DISCRIMINATOR_WINS = 0.1
# Of mean logits, of which the hinge loss wants to see 2; only after so many updates of the discriminator.
LOGITS_ALIKE, LEARNT_BY = 0.01, 500
# In the quickstart the ratio rises from 0.1 to 50 as reconstruction converges.
GRADIENT_RATIOS = (1e-4, 1e4)
# Share of adversarial.weight x adaptive_limit: at the limit the adversarial gradient has vanished beside the
# reconstruction's. A small weight is no sign: it answers a large adversarial gradient.
ADAPTIVE_WEIGHT = 0.99
# Variance over images of a latent channel's posterior mean, above which it is active (Burda et al. 2016, A_u).
ACTIVE_VARIANCE = 0.01
# Share of latent channels; KL prunes some of a generous number in sound runs, too.
FEWEST_ACTIVE = 0.1
# The prior's deviation is 1, and latents of weakly regularised autoencoders reach 5.5 (Rombach et al. 2022: their scale
# factor is 1/5.5). float16 ends at 65504, a few products beyond 1000.
LATENT_STD, LATENT_MAX = 50.0, 1000.0
# Share of channels, of all activations and of the one with the most: single dead channels are common with ReLU.
DEAD, DEAD_IN_ONE = 0.5, 0.9
# Scores of a loss among the SPIKE_ROWS rows before it. 3.5 is an outlier of independent numbers (Iglewicz & Hoaglin
# 1993); losses drift, and a row is a mean over updates, so that more is asked, and half as much again as is usual.
SPIKE, SPIKE_RATIO = 10.0, 1.5
SPIKE_ROWS, SPIKE_LEAST = 32, 8
# Losses watched for them: not what moves with an opponent, nor the divergence, which rises when β does.
SPIKING = ["vae", "lpips", "color_stats", "histogram", "contrast", "flow"]


@dataclass(frozen=True)
class HealthContext:
    """The facts of a run that its numbers are judged by, beside the limits."""

    step: str
    latent_channels: int | None = None
    discriminator_updates: int = 0
    adaptive: tuple[float, float] | None = None  # adversarial.weight and adaptive_limit, if the weight is adaptive


def warnings(metrics: dict[str, float], context: HealthContext, *, spike: str | None = None) -> dict[str, str]:
    """Short code → what is wrong and what to try, for the `metrics` of a row. `spike`: the loss that has one."""
    found = _of_gan(metrics, context) | _of_latents(metrics, context)
    dead, most = metrics.get("dead_activations", 0.0), metrics.get("dead_in_one", 0.0)
    if dead > DEAD or most > DEAD_IN_ONE:
        found["dead_activations"] = (
            f"{dead:.0%} of the channels of activations never change, {most:.0%} in the worst of them: try a lower "
            "learning rate, a longer warm-up of it, or another model.activation"
        )
    if spike is not None:
        found["loss_spike"] = (
            f"the loss '{spike}' rose {metrics['loss_spike']:.0f} robust deviations above the {SPIKE_ROWS} rows before "
            f"it: try a lower stage.steps.{context.step}.gradient_clip or learning rate, or look at the data there"
        )
    return found


def robust_score(value: float, before: list[float]) -> float:
    """(value - median) / (1.4826 MAD) of `before` (Iglewicz & Hoaglin 1993).

    A spread below 1 % of the median counts as that much.
    """
    middle = statistics.median(before)
    spread = 1.4826 * statistics.median(abs(each - middle) for each in before)
    return (value - middle) / max(spread, 0.01 * abs(middle), 1e-12)


def largest_spike(rows: list[Row], names: list[str], *, since: int) -> tuple[float | None, str | None]:
    """The largest score of the losses `names` in `train` rows after update `since`, and which of them has a spike.

    A score is taken among the SPIKE_ROWS rows before, and is 0 where no loss rose above their median; None: there are
    too few.
    """
    best: float | None = None
    spike: tuple[float, str] | None = None
    for name in names:
        series = [(row["global_step"], row["metrics"].get(name)) for row in rows if row["kind"] == "train"]
        known = [(update, value) for update, value in series if value is not None]
        for index, (update, value) in enumerate(known):
            before = [v for _, v in known[max(0, index - SPIKE_ROWS) : index]]
            if update <= since or len(before) < SPIKE_LEAST:
                continue
            score = robust_score(value, before)
            best = max(score, best or 0.0)
            if score > SPIKE and value > SPIKE_RATIO * statistics.median(before):
                spike = max(spike or (score, name), (score, name))
    return (spike or (best,))[0], spike[1] if spike else None


def _of_gan(metrics: dict[str, float], context: HealthContext) -> dict[str, str]:
    found = {}
    adversarial = f"stage.steps.{context.step}.trainer.adversarial"
    rate = f"stage.steps.{context.step}.optimizers.discriminator.lr"
    hinge, gap, ratio = (metrics.get(name) for name in ("hinge_loss", "logit_gap", "gradient_ratio"))
    if hinge is not None and hinge < DISCRIMINATOR_WINS:
        found["discriminator_wins"] = (
            f"the discriminator tells held-out images from reconstructions almost without a loss ({hinge:.3f} of 2): "
            f"try a lower {rate}, a higher {adversarial}.r1_gamma, {adversarial}.instance_noise=0.1, or LeCam"
        )
    if gap is not None and abs(gap) < LOGITS_ALIKE and context.discriminator_updates >= LEARNT_BY:
        found["discriminator_blind"] = (
            f"after {context.discriminator_updates} updates the discriminator gives held-out images and "
            f"reconstructions the same logits (gap {gap:.4f}): try a lower {adversarial}.r1_gamma or a higher {rate}"
        )
    if ratio is not None and not GRADIENT_RATIOS[0] <= ratio <= GRADIENT_RATIOS[1]:
        weaker = "discriminator" if ratio < 1 else "generator"
        found["gradient_ratio"] = (
            f"the discriminator's gradient is {ratio:.2g} times the generator's: the {weaker} hardly learns; try "
            f"another {rate}, or {adversarial}.weight"
        )
    weight = metrics.get("adaptive_weight")
    limit = context.adaptive[0] * context.adaptive[1] if context.adaptive else None
    if weight is not None and limit is not None and weight > ADAPTIVE_WEIGHT * limit:
        found["adaptive_weight"] = (
            f"the adaptive weight stands at its limit ({weight:.3g}): the adversarial gradient has vanished beside the "
            f"reconstruction's; try {adversarial}.adaptive=false, or a lower {adversarial}.adaptive_limit"
        )
    return found


def _of_latents(metrics: dict[str, float], context: HealthContext) -> dict[str, str]:
    found = {}
    active, channels = metrics.get("active_units"), context.latent_channels
    if active is not None and channels and active < max(1, FEWEST_ACTIVE * channels):
        kl = f"stage.steps.{context.step}.trainer.kl"
        found["posterior_collapse"] = (
            f"{active:.0f} of {channels} latent channels say something of the image: try a lower {kl}.weight, a longer "
            f"{kl}.warmup, or {kl}.free_bits=0.1"
        )
    std, largest = metrics.get("latent_std", 0.0), metrics.get("latent_max", 0.0)
    if std > LATENT_STD or largest > LATENT_MAX:
        found["latents_explode"] = (
            f"latents have deviation {std:.3g} and reach {largest:.3g}: try a lower learning rate or, where the "
            "autoencoder trains, a higher trainer.kl.weight"
        )
    return found
