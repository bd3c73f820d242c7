"""All that a step's trainer is built from: live objects and plain values, no configuration nodes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from fluxflow_exp.config.schema import Cache, Evaluation, Health, Samples, Transition
from fluxflow_exp.console import Console
from fluxflow_exp.data.protocols import DataSet
from fluxflow_exp.machine.hardware import Machine
from fluxflow_exp.machine.preemption import StopRequest
from fluxflow_exp.machine.ranks import Ranks
from fluxflow_exp.models.lora import Adapter
from fluxflow_exp.monitor.start_up import StartUp
from fluxflow_exp.monitor.time_breakdown import compiled
from fluxflow_exp.reference.standing import Standing
from fluxflow_exp.run.checkpoint import CheckpointStore
from fluxflow_exp.run.compiled_code import CompiledCode
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.live_report import LiveReport
from fluxflow_exp.run.save_interval import SaveClock
from fluxflow_exp.run.wandb import WandbRun
from fluxflow_exp.step_length import Length
from fluxflow_exp.trainers.early_batches import EarlyBatches


# Both are flat: a trainer and its parts read single fields, and no two read the same few.
@dataclass(kw_only=True)
class RunContext:
    """The live objects that all steps of a run share."""

    folder: RunFolder
    machine: Machine
    ranks: Ranks
    console: Console
    stop: StopRequest
    wandb: WandbRun | None  # None: nothing is sent
    live_report: LiveReport
    checkpoints: CheckpointStore
    clock: SaveClock
    start_up: StartUp = field(default_factory=StartUp)
    compiled_code: CompiledCode | None = None  # None: nothing is compiled, or kept
    code_of: str = ""  # the step whose kept code was loaded last

    def load_code(self, step: str) -> None:
        """Take up the code that was compiled for `step` by an earlier start, unless that was the last one."""
        if self.compiled_code and step != self.code_of:
            said, self.code_of = self.compiled_code.load(step), step
            if said:
                self.console.say(said)
            self.start_up.ends("kept code")

    def keep_code(self, step: str) -> None:
        """Let the next start have what has been compiled for `step`."""
        said = self.compiled_code.save(step, compiled()) if self.compiled_code else ""
        if said:
            self.console.say(said)


# Flat, as a run's is.
@dataclass(kw_only=True)
class StepContext(RunContext):
    """All that the trainer of one step is built from."""

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
    cache: Path | None  # folder of caches; None: none is used
    caching: Cache  # what is asked of them; its path is where they lie, used or not
    log_every: int
    samples: Samples
    evaluation: Evaluation
    health: Health
    standing: Standing | None = None  # of reference runs, to the first rank; None: the run is similar to none
    early: EarlyBatches | None = None  # batches that were begun to be read before the parts were built
    adapters: dict[str, Adapter] = field(default_factory=dict)  # by part; what a player trains in its place

    def guidance(self, scale: float) -> float:
        """The `scale` that pictures are drawn at: 1 where no caption is dropped, so that nothing is learnt to guide."""
        return scale if self.cfg_dropout_prob > 0 else 1.0
