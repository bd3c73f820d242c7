"""A short flow step on latents of an autoencoder that another run has trained."""

from pathlib import Path
from typing import Any

from fluxflow_exp import pipeline
from tests.conftest import toy

SHORT = ["stage.steps.flow.n_epochs=2", "stage.steps.flow.batch_size=8", "checkpoint.every_updates=1"]
QUIET = ["evaluation.every_epochs=null", "samples.every_epochs=null"]


def trained_autoencoder(root: Path, *overrides: str) -> Path:
    """The folder of a run of three updates, whose weights a flow step starts from."""
    steps = ["stage.steps.vae.batch_size=8", "stage.steps.vae.max_updates=3"]
    pipeline.run(toy(root, *steps, *QUIET, *overrides, stage="vae"))
    return root / "vae"


def flow_step(root: Path, autoencoder: Path, *overrides: str) -> dict[str, Any]:
    """The configuration of a flow step of eight updates."""
    return toy(root, f"stage.steps.flow.init_from={autoencoder}", *SHORT, *QUIET, *overrides, stage="flow_cfg")
