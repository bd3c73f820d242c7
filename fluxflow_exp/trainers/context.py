"""What the pipeline hands to a trainer: live objects and plain values, no configuration nodes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fluxflow_exp.config.schema import Evaluation, Health, Samples, Transition
from fluxflow_exp.console import Console
from fluxflow_exp.data.protocols import DataSet
from fluxflow_exp.machine.hardware import Machine
from fluxflow_exp.machine.preemption import StopRequest
from fluxflow_exp.machine.ranks import Ranks
from fluxflow_exp.run.checkpoint import CheckpointStore
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.live_report import LiveReport
from fluxflow_exp.run.save_interval import SaveClock
from fluxflow_exp.run.wandb import WandbRun


@dataclass
class Length:
    """How long a step is, in optimizer updates."""

    updates: int
    updates_per_epoch: int
    batch_size: int  # images an update, of all ranks
    micro_batch: int  # images a forward pass of one rank

    def epoch(self, update: int) -> int:
        """The epoch, from 1, that the `update`-th update (from 1) belongs to."""
        return (update - 1) // self.updates_per_epoch + 1

    def batch(self, update: int) -> int:
        """The batch, from 1, within that epoch."""
        return (update - 1) % self.updates_per_epoch + 1

    def ends_epoch(self, update: int) -> bool:
        return update % self.updates_per_epoch == 0 or update == self.updates


@dataclass
class StepContext:
    name: str  # of the step
    index: int  # of the step in the pipeline, from 1
    steps: int  # of the pipeline
    seed: int
    length: Length
    parts: dict[str, nn.Module]  # all that the step trains or uses, on the device
    given: list[str]  # parts that came from init_from
    optimizers: dict[str, Callable[..., Any]]  # by player
    schedulers: dict[str, Callable[..., Any]]
    freeze: list[str]
    unfreeze: list[str]
    transition_on: Transition
    ema_decay: float | None
    gradient_clip: float | None
    cfg_dropout_prob: float
    data: DataSet
    num_workers: int
    machine: Machine
    ranks: Ranks
    folder: RunFolder
    checkpoints: CheckpointStore
    clock: SaveClock
    stop: StopRequest
    console: Console
    live_report: LiveReport
    wandb: WandbRun
    cache: Path | None  # folder of caches; None: none is used
    log_every: int
    samples: Samples
    evaluation: Evaluation
    health: Health
