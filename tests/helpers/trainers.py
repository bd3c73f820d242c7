"""Trainers at their first update, and the overrides that switch on what a toy run leaves out."""

from pathlib import Path
from typing import Any

import torch

from fluxflow_exp.config.compose import typed
from fluxflow_exp.console import Console
from fluxflow_exp.data.build import build_data
from fluxflow_exp.data.loader import load_batches
from fluxflow_exp.machine.hardware import prepare
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.step_length import lengths_of
from fluxflow_exp.trainers.build import build_trainer, run_context
from tests.conftest import toy

LOSSES = ["frequency", "color_stats", "histogram", "contrast", "feature_matching", "lecam", "equivariance"]
PERCEPTUAL_ON = "+loss@stage.steps.vae_gan.trainer.perceptual=lpips"
ALL_ON = [PERCEPTUAL_ON, *(f"+loss@stage.steps.vae_gan.trainer.{loss}={loss}" for loss in LOSSES)]
# Of the flow transformer and its step.
EVERY = ["optimizer=muon", "model.flow_processor.depth=4"]
KEYS = ("long_skips", "shared_modulation", "value_residual")  # absolute_positions: model=tiny has them
EVERY += [f"+model.flow_processor.{key}=true" for key in KEYS]
EVERY += ["+loss@stage.steps.flow.trainer.self_alignment=self_alignment"]
PERCEPTUAL = ["stage.steps.vae_gan.trainer.perceptual.net=squeeze", "data.img_size=32"]
PERCEPTUAL += ["stage.steps.vae_gan.trainer.perceptual.pretrained=false"]
START = ["stage.steps.vae_gan.trainer.adversarial.start=0"]
GAN_ONLY = ["stage.steps.gan_only.batch_size=8"]


def trainer_of(values: dict[str, Any], step: str, folder: Path, *earlier: str) -> Any:
    """The trainer of a step after `earlier` ones, whose weights are in `folder`."""
    config = typed(values)
    data = build_data(config)
    run = run_context(config, RunFolder(folder), prepare(config.hardware), console=Console())
    return build_trainer(config, step, run, length=lengths_of(config, data)[step], data=data[step], earlier=earlier)


def build(tmp_path: Path, step: str, *overrides: str, stage: str = "quickstart") -> tuple[Any, Any]:
    """A trainer of a toy run with weights away from their zero initialisation, and a batch."""
    trainer = trainer_of(toy(tmp_path, *overrides, stage=stage), step, tmp_path / "run")
    torch.manual_seed(0)
    with torch.no_grad():
        for module in trainer.setup.parts.values():
            for parameter in module.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    (batch,) = load_batches(
        trainer.setup.data.train, seed=0, batch_size=8, first_update=0, last_update=1, num_workers=0, pin_memory=False
    )
    return trainer, batch


def ready_to_draw(trainer: Any) -> Path:
    """Make the folders of its pictures and of their rows; the one of pictures."""
    folder = trainer.setup.folder
    for each in (folder.samples, folder.graph):
        each.mkdir(parents=True)
    return Path(folder.samples)


def updated(trainer: Any, batch: Any) -> dict[str, float]:
    """The numbers of one update."""
    trainer.metric_buffer.take()
    trainer.update(batch)
    (metrics,) = trainer.metric_buffer.take()
    found: dict[str, float] = metrics
    return found
