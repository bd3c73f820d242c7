"""Held-out metrics and pictures, when they are due."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fluxflow_exp.run.metric_log import read_rows
from fluxflow_exp.trainers.health_check import Checkup

if TYPE_CHECKING:
    from fluxflow_exp.trainers.base import Trainer


class Validation:
    """The first rank looks while the others wait; all of them do together where the model is sharded."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.saves = 0  # that were due, over restarts
        self.owed = False  # pictures belong to the newest checkpoint that are not drawn yet
        self._drawn: int | None = None  # the update after which pictures were made
        self.checkup = Checkup(trainer)

    def after_update(self) -> None:
        trainer = self.trainer
        update, samples, length = trainer.update_index, trainer.setup.samples, trainer.length
        epoch = length.epoch(update)
        with torch.no_grad():
            if length.ends_epoch(update) and self._due(trainer.setup.evaluation.every_epochs):
                self.evaluate()
                with trainer.time_breakdown.during("evaluation"):
                    self.checkup.examine()
            if length.ends_epoch(update) and self._due(samples.every_epochs):
                self._draw(f"{epoch:03d}")
            elif samples.every_updates and update % samples.every_updates == 0:
                self._draw(f"{epoch:03d}_{length.batch(update):05d}")

    def count_save(self) -> None:
        """A save is due now: see whether pictures belong to it, which is every n-th, unless this update made some.

        With `checkpoint.every_updates` that hangs on the update alone; saves by the clock are counted.
        """
        trainer = self.trainer
        every, update, by = trainer.setup.samples.samples_per_checkpoint, trainer.update_index, trainer.setup.clock
        self.saves += 1
        if by.every_updates:
            number, counts = -(-update // by.every_updates), update % by.every_updates == 0
        else:
            number, counts = self.saves, True
        counts = counts or update == trainer.length.updates
        self.owed = bool(every) and counts and number % (every or 1) == 0 and self._drawn != update

    def after_save(self) -> None:
        """Draw the pictures of this checkpoint."""
        trainer = self.trainer
        if self.owed:
            update, length = trainer.update_index, trainer.length
            with torch.no_grad():
                self._draw(f"{length.epoch(update):03d}_{length.batch(update):05d}")

    def catch_up(self) -> None:
        """Draw what a process that is gone owed to the checkpoint that was loaded."""
        ranks = self.trainer.ranks
        if self.owed:
            wanted = self.trainer.setup.samples.samples_per_checkpoint is not None
            self.owed = ranks.from_first(wanted and ranks.first and not self._has_row())
        self.after_save()

    def _has_row(self) -> bool:
        rows = read_rows(self.trainer.rows.path)
        return any((row["kind"], row["global_step"]) == ("samples", self.trainer.update_index) for row in rows)

    def evaluate(self) -> None:
        """Held-out metrics: logged, and followed by a transition and by schedules."""
        trainer = self.trainer
        trainer.settle()
        last = trainer.update_index == trainer.length.updates
        trainer.held_out = self._metrics(last=last)
        if trainer.early_stop and not last:
            trainer.end(trainer.early_stop.after_evaluation(trainer.held_out))
            if trainer.ended_by:
                trainer.held_out = self._metrics(last=True)
        for player in trainer.players.values():
            player.schedule.observe(next(iter(trainer.held_out.values())))
        trainer.write_row("held_out", trainer.held_out)
        if trainer.setup.evaluation.raw:
            trainer.write_row("held_out_raw", self._metrics(last=last or bool(trainer.ended_by), raw=True))
        trainer.setup.console.held_out(trainer.length.epoch(trainer.update_index), trainer.held_out)

    def _metrics(self, *, last: bool, raw: bool = False) -> dict[str, float]:
        trainer = self.trainer
        looks = trainer.ranks.first or trainer.sharded
        with trainer.time_breakdown.during("evaluation"):
            return trainer.ranks.from_first(trainer.evaluate(last=last, raw=raw) if looks else {})

    def _draw(self, suffix: str) -> None:
        self._drawn, self.owed = self.trainer.update_index, False
        self.trainer.settle()
        if self.trainer.ranks.first or self.trainer.sharded:
            with self.trainer.time_breakdown.during("pictures"):
                self.trainer.sample_pictures(suffix)

    def _due(self, every: int | None) -> bool:
        """Whether what happens every so many epochs happens at this epoch's end; at the step's end it always does."""
        length, update = self.trainer.length, self.trainer.update_index
        return every is not None and (update == length.updates or length.epoch(update) % every == 0)
