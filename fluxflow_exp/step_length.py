"""How long a step is, and the batches that it is taken in: counted from its configuration and its data."""

import math
from dataclasses import dataclass
from typing import Self

from fluxflow_exp.config.published import locate
from fluxflow_exp.config.schema import RunConfig, Step
from fluxflow_exp.data.loader import updates_per_epoch
from fluxflow_exp.data.protocols import DataSet
from fluxflow_exp.errors import UserError

# What is due every "auto" epochs: so many updates apart at least, for what they cost to be small beside them; but so
# often in a step, for a curve.
APART, LEAST = 200, 10
Every = int | str | None  # epochs, "auto", or never


@dataclass(frozen=True)
class Length:
    """How long a step is, in optimizer updates."""

    updates: int
    updates_per_epoch: int
    batch_size: int  # images an update, of all ranks
    micro_batch: int  # images a forward pass of one rank

    @classmethod
    def of(cls, step: Step, updates_per_epoch: int, micro_batch: int) -> Self:
        """The length of `step` where an epoch of its data has so many updates."""
        updates = updates_per_epoch * step.n_epochs
        updates = updates if step.max_updates is None else min(updates, step.max_updates)
        return cls(updates, updates_per_epoch, step.batch_size, micro_batch)

    def epoch(self, update: int) -> int:
        """The epoch, from 1, that the `update`-th update (from 1) belongs to."""
        return (update - 1) // self.updates_per_epoch + 1

    def batch(self, update: int) -> int:
        """The batch, from 1, within that epoch."""
        return (update - 1) % self.updates_per_epoch + 1

    def ends_epoch(self, update: int) -> bool:
        return update % self.updates_per_epoch == 0 or update == self.updates

    @property
    def epochs(self) -> int:
        """Epochs that are begun."""
        return self.epoch(self.updates)

    @property
    def auto(self) -> int | None:
        """Epochs that "auto" is: the fewest that hold APART updates. None: the step has not LEAST times as many, and is
        divided into LEAST parts.

        A function of the length alone; and the longer a step is, the more often something is due in it.
        """
        fewest = math.ceil(APART / self.updates_per_epoch)
        if self.epochs >= LEAST * fewest:
            return fewest
        return 1 if self.epochs <= LEAST else None

    def is_due(self, update: int, every: Every) -> bool:
        """Whether after `update` comes what comes after so many epochs, and at the step's end in any case."""
        if every is None or not self.ends_epoch(update):
            return False
        epoch, apart = self.epoch(update), self._apart(every)
        if update == self.updates:
            return True
        if apart is not None:
            return epoch % apart == 0
        return epoch * LEAST // self.epochs > (epoch - 1) * LEAST // self.epochs

    def times(self, every: Every) -> int:
        """How often that comes in the whole step."""
        if every is None:
            return 0
        apart = self._apart(every)
        return LEAST if apart is None else math.ceil(self.epochs / apart)

    def _apart(self, every: int | str) -> int | None:
        return self.auto if isinstance(every, str) else every


def lengths_of(config: RunConfig, data: dict[str, DataSet], *, ranks: int = 1) -> dict[str, Length]:
    """By step; `data` is by step, too. UserError: in which steps a training set is smaller than a batch."""
    found, problems = {}, []
    for name, step in config.stage.steps.items():
        try:
            found[name] = length_of(step, data[name], config, ranks=ranks)
        except UserError as error:
            problems.append(f"step {name}: {error}; set stage.steps.{name}.batch_size lower")
    if problems:
        raise UserError(*problems)
    return found


def length_of(step: Step, data: DataSet, config: RunConfig, *, ranks: int = 1) -> Length:
    """The step's length in updates. UserError: the training set is smaller than a batch."""
    per_epoch, share = updates_per_epoch(data.train, step.batch_size), step.batch_size // ranks
    chosen = getattr(config.hardware.micro_batch, locate(step.trainer["_target_"]).MICRO_BATCH)
    return Length.of(step, per_epoch, share if chosen in (None, "auto") else min(chosen, share))
