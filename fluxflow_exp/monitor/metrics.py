"""The table of metrics: what each is called, its unit, where it is shown, and which way is better. Nothing heavy here.

A metric that is not in it, such as a term of one's own loss, goes by its name.
"""

from typing import NamedTuple


class Metric(NamedTuple):
    title: str  # of its curve
    unit: str = ""  # "share": of 1, shown in per cent
    console: str = ""  # its label on the console's line; without one it is not there
    balance: bool = False  # whether its curve stands with those of the discriminator's balance

    @property
    def label(self) -> str:
        """The title with the unit, for an axis."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


# In the order of the curves in a section, and of the labels on the console.
METRICS = {
    "vae": Metric("Autoencoder loss", console="VAE"),
    "kl": Metric("KL", "nats a position", console="KL"),
    "kl_beta": Metric("β, the weight of KL"),
    "l1": Metric("L1"),
    "mse": Metric("Squared error"),
    "log_mse": Metric("Logarithm of the squared error", "nats above 46 dB"),
    "g": Metric("Generator's hinge loss", console="G", balance=True),
    "d": Metric("Discriminator's hinge loss", console="D", balance=True),
    "r1": Metric("R1 penalty", balance=True),
    "g_weight": Metric("Generator's adaptive weight", balance=True),
    "adaptive_weight": Metric("Generator's adaptive weight, median since the last check", balance=True),
    "hinge_loss": Metric("Discriminator's hinge loss on held-out images", balance=True),
    "logit_gap": Metric("Logit gap on held-out images, real minus reconstructed", balance=True),
    "gradient_ratio": Metric(
        "Gradient norms, discriminator over autoencoder, median since the last check", balance=True
    ),
    "lecam": Metric("LeCam", balance=True),
    "lpips": Metric("LPIPS", console="LPIPS"),
    "l1_low": Metric("L1 of smooth parts"),
    "l1_high": Metric("L1 of detail"),
    "kl_floored": Metric("KL, at least the free bits", "nats a position"),
    "color_stats": Metric("Colour statistics"),
    "histogram": Metric("Histogram"),
    "contrast": Metric("Contrast"),
    "feature_matching": Metric("Feature matching"),
    "equivariance": Metric("Equivariance"),
    "flow": Metric("Flow loss", console="Flow"),
    "self_alignment": Metric("Self-alignment, 1 - cosine", console="Self-alignment"),
    "repa": Metric("Alignment with the teacher, 1 - cosine", console="Alignment"),
    "active_units": Metric("Active latent channels"),
    "latent_std": Metric("Latents' standard deviation"),
    "latent_max": Metric("Latents' largest magnitude"),
    "dead_activations": Metric("Dead activations", "share"),
    "dead_in_one": Metric("Dead activations, in the worst one", "share"),
    "loss_spike": Metric("Largest rise of a loss above its median", "robust deviations"),
    "val_psnr": Metric("PSNR", "dB"),
    "val_l1": Metric("L1"),
    "val_ssim": Metric("SSIM"),
    "val_ms_ssim": Metric("MS-SSIM"),
    "val_lpips": Metric("LPIPS"),
    "val_flow": Metric("Flow loss"),
    "val_rfd": Metric("rFD"),
    "val_fd": Metric("FD"),
    "val_kid": Metric("KID"),
    "val_precision": Metric("Precision", "share"),
    "val_recall": Metric("Recall", "share"),
    "val_retrieval_1": Metric("Retrieval@1", "share"),
    "val_retrieval_5": Metric("Retrieval@5", "share"),
    "val_copies": Metric("Copies", "share"),
    "val_copies_held_out": Metric("Copies among held-out images", "share"),
    "prompt_accuracy": Metric("Prompt accuracy", "share"),
    "prompt_accuracy_kind": Metric("Prompt accuracy, kind", "share"),
    "prompt_accuracy_colour": Metric("Prompt accuracy, colour", "share"),
    "prompt_accuracy_ground": Metric("Prompt accuracy, ground", "share"),
    "learning rate": Metric("Learning rate"),
    "gradient norm": Metric("Gradient norm, before clipping"),
    "seconds an update": Metric("Time of an update", "s"),
}
ON_CONSOLE = {name: metric.console for name, metric in METRICS.items() if metric.console}
# Words of a metric's name that tell which way is better.
HIGHER = {"psnr", "ssim", "accuracy", "clip", "precision", "recall", "retrieval"}
LOWER = {
    "loss", "lpips", "l1", "l2", "mse", "mae", "flow", "kl", "vae", "fid", "fd", "rfd", "kid", "distance", "dist",
    "error", "copies", "drift",
}  # fmt: skip


def named(name: str) -> Metric:
    """Return what is known of a metric; of one that is not in the table, its name."""
    return METRICS.get(name, Metric(name))


def higher_is_better(name: str) -> bool | None:
    """Tell for a held-out metric by the words of its name, `val_psnr`, `psnr` and `fd@4` alike; None: they do not."""
    words = set(name.lower().partition("@")[0].split("_"))
    return True if words & HIGHER else False if words & LOWER else None


def unit(name: str) -> str | None:
    """Return the unit of a held-out measure, with or without `val_`; None: a bare number, which a share is as well."""
    return METRICS["val_psnr"].unit if "psnr" in name.lower() else None
