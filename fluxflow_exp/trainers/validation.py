"""Between updates: rows, held-out metrics, health and pictures, when they are due."""

import math
from abc import abstractmethod
from dataclasses import replace

import torch

from fluxflow_exp.data.loader import Batch
from fluxflow_exp.data.reading import read_all
from fluxflow_exp.losses.terms import Loss
from fluxflow_exp.monitor.early_stop import EarlyStop
from fluxflow_exp.monitor.health import HealthContext
from fluxflow_exp.monitor.time_breakdown import TimeBreakdown
from fluxflow_exp.run.metric_log import MetricLog, Text, Window, read_rows
from fluxflow_exp.trainers import best
from fluxflow_exp.trainers.best import Best
from fluxflow_exp.trainers.context import StepContext
from fluxflow_exp.trainers.health_check import Activity, Checkup
from fluxflow_exp.trainers.updates import Updates


class Validated(Updates):
    """All ranks look together, each at its portion of what is held out; the first one writes down what was found."""

    def __init__(self, setup: StepContext, losses: dict[str, Loss]) -> None:
        super().__init__(setup, losses)
        self.window, self.rows = Window(), MetricLog(setup.folder.metrics(setup.name), say=setup.console.say)
        self.checkup = Checkup(self.rows.path)
        self.seconds, self.time_breakdown = 0.0, TimeBreakdown()
        self.latest: dict[str, float] = {}  # metrics of the last update that was read
        self.held_out: dict[str, float] = {}
        self.best: Best | None = None  # None: nothing was evaluated yet, or the loss does not tell
        self.before: dict[str, float] = {}  # held-out losses of a published model that the step goes on from
        rule = setup.transition_on
        self.early_stop = EarlyStop(rule, updates_per_epoch=self.length.updates_per_epoch) if rule.metric else None
        self.ended_by: str | None = None  # why the step ended before its last epoch
        self.prompt = self.prompt or (self.early_stop is not None and not self.early_stop.held_out)
        self.saves = 0  # that were due, over restarts
        self.owes_pictures = False  # some belong to the newest checkpoint that are not drawn yet
        self._drawn: int | None = None  # the update after which pictures were made

    @abstractmethod
    def sample_pictures(self, suffix: str) -> None:
        """Write pictures of the held-out samples. All ranks call it together."""

    @abstractmethod
    def evaluate(self, *, last: bool, raw: bool = False) -> dict[str, float]:
        """Held-out metrics with averaged or `raw` weights; a plateau follows the first one, lower is better.

        All ranks call it together; what counts is what the first one returns.
        """

    @abstractmethod
    def health(self, batch: Batch) -> tuple[dict[str, float], HealthContext]:
        """Numbers of latents and opponents on held-out images, and what they are judged by."""

    @property
    def loss_tells(self) -> bool:
        """Whether a lower held-out loss means a better model."""
        return True

    def scheduled(self) -> dict[str, float]:
        """Weights of losses that change with the update, as they were in the last one."""
        return {}

    @property
    def finished(self) -> bool:
        return self.update_index == self.length.updates

    @property
    def looks(self) -> bool:
        """Whether this rank takes part where the first one needs the whole model."""
        return self.ranks.first or self.sharded

    def settle(self) -> None:
        """Read what updates gave since the last time. NonFiniteError: the weights are those of before that update."""
        for metrics in self.metric_buffer.take():
            self.window.add(metrics)
            self.latest = metrics

    def end(self, reason: str | None) -> None:
        """Make the present update the step's last one, if there is a reason to."""
        if reason and self.update_index < self.length.updates:
            self.ended_by = reason
            self.length = replace(self.length, updates=self.update_index)
            self.setup.console.say(f"Step {self.setup.name} ends after update {self.update_index}: {reason}")

    @torch.no_grad()
    def look(self) -> None:
        """Evaluate and draw what is due after the present update."""
        update, samples = self.update_index, self.setup.samples
        if self.length.is_due(update, self.setup.evaluation.every_epochs):
            self.validate()
            with self.time_breakdown.during("evaluation"):
                self.examine()
        if self.length.is_due(update, samples.every_epochs):  # the evaluation may have ended the step
            self.draw(f"{self.length.epoch(update):03d}")
        elif samples.every_updates and update % samples.every_updates == 0:
            self.draw(self._place_in_epoch())

    def validate(self) -> None:
        """Held-out metrics: logged, and followed by a transition and by schedules."""
        self.settle()
        last = self.finished
        self.held_out = self._held_out(last=last)
        if self.early_stop and not last:
            self.end(self.early_stop.after_evaluation(self.held_out))
            if self.ended_by:
                self.held_out = self._held_out(last=True)
        for player in self.players.values():
            player.schedule.observe(next(iter(self.held_out.values())))
        self._keep_best(next(iter(self.held_out.values())))
        self.write_row("held_out", self.held_out)
        if self.setup.evaluation.raw:
            self.write_row("held_out_raw", self._held_out(last=last or bool(self.ended_by), raw=True))
        self.setup.console.held_out(self.length.epoch(self.update_index), self.held_out)
        news = self.setup.standing.news(read_rows(self.rows.path)) if self.setup.standing and not self.finished else ""
        if news:  # where the step stands in the end is said when it has ended
            self.setup.console.say(news)

    def count_save(self) -> None:
        """A save is due now: see whether pictures belong to it, which is every n-th, unless this update made some.

        With `checkpoint.every_updates` that hangs on the update alone; saves by the clock are counted.
        """
        every, update, by = self.setup.samples.samples_per_checkpoint, self.update_index, self.setup.clock
        self.saves += 1
        number, counts = self.saves, True
        if by.every_updates:
            number, counts = -(-update // by.every_updates), update % by.every_updates == 0
        counts = counts or self.finished
        self.owes_pictures = bool(every) and counts and number % (every or 1) == 0 and self._drawn != update

    @torch.no_grad()
    def draw_owed(self) -> None:
        """Draw the pictures of the newest checkpoint, if some belong to it."""
        if self.owes_pictures:
            self.draw(self._place_in_epoch())

    def catch_up(self) -> None:
        """Draw what a process that is gone owed to the checkpoint that was loaded."""
        if self.owes_pictures:
            wanted = self.setup.samples.samples_per_checkpoint is not None
            self.owes_pictures = self.ranks.from_first(wanted and self.ranks.first and not self._has_pictures())
        self.draw_owed()

    def write_row(
        self,
        kind: str,
        metrics: dict[str, float],
        learning_rates: dict[str, float] | None = None,
        extras: dict[str, float] | None = None,
        **texts: Text,
    ) -> None:
        """Log `metrics` of the present update and `texts` of them, or of the pictures that were made after it."""
        if self.ranks.first:
            self.rows.write(
                kind,
                update=self.update_index,
                epoch=self.length.epoch(self.update_index),
                batch=self.length.batch(self.update_index),
                metrics=metrics,
                learning_rates=learning_rates,
                extras=extras,
                texts=texts,
            )
            if self.setup.wandb:
                self.setup.wandb.catch_up(self.setup.name)

    def drawn(self, *how: str) -> str:
        """What made the pictures of the present update: what was trained on, `how`, and with which weights."""
        seen = self.update_index * self.length.batch_size
        averaged = any(player.ema for player in self.players.values())
        return ", ".join([f"{seen:,} images seen", *how, f"{'averaged' if averaged else 'raw'} weights"])

    def title(self, drawn: str) -> str:
        """What a sheet of them is, read without its run."""
        update = self.update_index
        return f"Step {self.setup.name}, update {update:,} (epoch {self.length.epoch(update)}): {drawn}"

    def _keep_best(self, loss: float) -> None:
        if self.loss_tells and math.isfinite(loss) and (self.best is None or loss < self.best.loss):
            with self.time_breakdown.during("evaluation"):
                weights = best.averages(self.players, keep=self.ranks.first) if self.looks else {}
            self.best = Best(self.update_index, loss, weights)

    def _held_out(self, *, last: bool, raw: bool = False) -> dict[str, float]:
        with self.time_breakdown.during("evaluation"):
            return self.ranks.from_first(self.evaluate(last=last, raw=raw))

    @torch.no_grad()
    def examine(self) -> None:
        """Measure health, log it and warn."""
        count, source = self.setup.health.images, self.setup.data.validation
        if count is None or not self.looks:
            return
        batch = read_all(source, range(min(count, len(source))), seed=self.setup.seed)
        self.accumulation.forget_graphs()  # this may need their memory
        parts = [module for player in self.players.values() for module in player.parts.values()]
        # Shapes of their own, seldom seen: not worth compiling.
        with torch.compiler.set_stance("force_eager"), Activity(parts) as activity, self.machine.autocast():
            metrics, context = self.health(batch)
        if self.ranks.first:
            metrics, warnings, news = self.checkup.judge({**metrics, **activity.numbers()}, context, [*self.own_terms])
            for line in news:
                self.setup.console.say(line)
            self.write_row("health", metrics, warnings=warnings)

    def draw(self, suffix: str) -> None:
        self._drawn, self.owes_pictures = self.update_index, False
        self.settle()
        with self.time_breakdown.during("pictures"):
            self.sample_pictures(suffix)

    def _place_in_epoch(self) -> str:
        return f"{self.length.epoch(self.update_index):03d}_{self.length.batch(self.update_index):05d}"

    def _has_pictures(self) -> bool:
        rows = read_rows(self.rows.path)
        return any((row["kind"], row["global_step"]) == ("samples", self.update_index) for row in rows)
