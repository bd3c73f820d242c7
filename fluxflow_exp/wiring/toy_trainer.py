"""A step's trainer at toy size, built from any variant of the configuration, and what its updates leave behind."""

import copy
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow_exp.config.compose import instantiate, typed
from fluxflow_exp.config.schema import RunConfig
from fluxflow_exp.data.build import build_data
from fluxflow_exp.data.loader import Batch, load_batches
from fluxflow_exp.data.protocols import DataSet
from fluxflow_exp.data.reading import read_all
from fluxflow_exp.machine.hardware import prepare
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.seeding import generator
from fluxflow_exp.step_length import Length
from fluxflow_exp.trainers.base import Trainer
from fluxflow_exp.trainers.build import run_context, step_context
from fluxflow_exp.wiring.shrink import pixels

BATCHES = 3  # read of the data; updates take them in turn
AFTER = 2  # updates that follow the first one of a kind
SCATTER = 0.05  # deviation of what is added to fresh weights
PROMPTS = 8


class ToyTrainer:
    """Step `step` of the toy-sized configuration `values`; `length` is that of the run at its own size."""

    def __init__(self, values: dict[str, Any], step: str, data: DataSet, length: Length, scratch: Path) -> None:
        self.values, self.step, self.data, self.length, self.scratch = values, step, data, length, scratch
        self.config = typed(values)
        self.machine = prepare(self.config.hardware)
        self.side = pixels(values, step, img_size=data.img_size)
        self._read: dict[tuple[Any, ...], list[Batch]] = {}
        trainer = self.build(self.config)
        self.parts, self.updates = set(trainer.setup.parts), updates_of(trainer)
        self.kinds = {trainer.kind(index) for index in self.updates}

    def longer(self, times: int) -> Self:
        """The same step with so many times the updates, of the same images."""
        values, updates = copy.deepcopy(self.values), self.length.updates * times
        values["stage"]["steps"][self.step]["max_updates"] = updates
        length = dataclasses.replace(self.length, updates=updates, updates_per_epoch=updates)
        return type(self)(values, self.step, self.data, length, self.scratch)

    def build(self, config: RunConfig) -> Trainer:
        """The step's trainer as a run makes it, its weights away from where they start.

        Fresh weights are zero in places, so that no gradient would pass.
        """
        step = config.stage.steps[self.step]
        length = Length.of(step, self.length.updates_per_epoch, step.batch_size)
        run = run_context(config, RunFolder(self.scratch), self.machine)
        context = step_context(config, self.step, run, length=length, data=self.data)
        for part, module in context.parts.items():
            scatter(part, module)
        trainer: Trainer = instantiate(step.trainer, setup=context)
        return trainer

    def batches(self, config: RunConfig) -> list[Batch]:
        """The first batches of the data, their images made smaller."""
        key = config.seed, config.stage.steps[self.step].batch_size
        if key not in self._read:
            self._read[key] = [resized(batch, self.side) for batch in read(self.data, *key)]
        return self._read[key]

    def run(self, config: RunConfig, updates: list[int] | None = None) -> Iterator[str]:
        """The step's length, then after each of `updates` (the toy's own) a digest of weights and averages."""
        trainer, batches = self.build(config), self.batches(config)
        yield str(trainer.length.updates)
        for turn, index in enumerate(self.updates if updates is None else updates):
            advance(trainer, batches[turn % len(batches)], index)
            yield digest(trainer)

    def look(self, config: RunConfig) -> str:
        """A digest of what the data of `config` give."""
        data = open_data(config, self.step)
        size = self.config.stage.steps[self.step].batch_size
        batches = read(data, config.seed, size)
        held_out = read_all(data.validation, range(min(len(data.validation), size)), seed=config.seed)
        found = hashlib.blake2b(repr((len(data.train), len(data.validation), data.prompts[:PROMPTS])).encode())
        for batch in [*batches, held_out]:
            found.update(batch.images.numpy().tobytes())
            found.update(repr((batch.images.shape, batch.captions, batch.ids)).encode())
        return found.hexdigest()


def updates_of(trainer: Trainer) -> list[int]:
    """The first update of each kind and those after it."""
    seen: dict[tuple[str, ...], int] = {}
    for index in range(trainer.length.updates):
        seen.setdefault(trainer.kind(index), index)
    wanted = {first + after for first in seen.values() for after in range(AFTER + 1)}
    return sorted(index for index in wanted if index < trainer.length.updates)


def open_data(config: RunConfig, step: str) -> DataSet:
    """The data of one step. UserError: they cannot be read."""
    stage = dataclasses.replace(config.stage, steps={step: config.stage.steps[step]})
    found: DataSet = build_data(dataclasses.replace(config, stage=stage))[step]
    return found


def read(data: DataSet, seed: int, batch_size: int) -> list[Batch]:
    return list(
        load_batches(
            data.train, seed=seed, batch_size=batch_size, first_update=0, last_update=BATCHES, num_workers=0,
            pin_memory=False,
        )
    )  # fmt: skip


def resized(batch: Batch, side: int) -> Batch:
    if batch.images.shape[-2:] == (side, side):
        return batch
    images = F.interpolate(batch.images.float(), (side, side), mode="area").round().to(torch.uint8)
    return batch._replace(images=images)


@torch.no_grad()
def scatter(part: str, module: nn.Module) -> None:
    """Add to each parameter what its name alone decides."""
    for name, parameter in module.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator("scatter", part, name))
        parameter.add_(SCATTER * drawn)


def advance(trainer: Trainer, batch: Batch, index: int) -> dict[str, float]:
    """Do update `index`; its numbers."""
    trainer.update_index = index
    trainer.update(batch)
    (metrics,) = trainer.metric_buffer.take()
    found: dict[str, float] = metrics
    return found


def digest(trainer: Trainer) -> str:
    """Digest every part's tensors and the averages, bit for bit."""
    found = hashlib.blake2b()
    averages = [player.ema.average for player in trainer.players.values() if player.ema]
    states: list[dict[str, Tensor]] = [module.state_dict() for module in trainer.setup.parts.values()]
    for state in [*states, *(each for average in averages for each in average.values())]:
        for name, tensor in state.items():
            found.update(name.encode())
            found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
