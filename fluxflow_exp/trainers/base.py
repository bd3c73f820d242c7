"""The training loop: one class for every step; a subclass says what is computed, not how it is run."""

from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fluxflow_exp.data.loader import Batch, load_batches
from fluxflow_exp.data.protocols import Source, Stored, Stream
from fluxflow_exp.losses.terms import Loss, Terms, names
from fluxflow_exp.machine import clock
from fluxflow_exp.machine.preemption import Interrupted
from fluxflow_exp.machine.ranks import Ranks
from fluxflow_exp.monitor.early_stop import EarlyStop
from fluxflow_exp.monitor.finite import Place
from fluxflow_exp.monitor.health import HealthContext
from fluxflow_exp.monitor.metric_buffer import MetricBuffer, PhaseNumbers
from fluxflow_exp.monitor.time_breakdown import TimeBreakdown
from fluxflow_exp.run.metric_log import MetricLog, Window
from fluxflow_exp.seeding import generator
from fluxflow_exp.trainers import loop, resume
from fluxflow_exp.trainers.accumulation import Accumulation
from fluxflow_exp.trainers.context import StepContext
from fluxflow_exp.trainers.phase import Phase
from fluxflow_exp.trainers.player import build_players
from fluxflow_exp.trainers.validation import Validation


class Trainer(ABC):
    PLAYERS: ClassVar[dict[str, tuple[str, ...]]]  # player → parts
    USES: ClassVar[tuple[str, ...]] = ()  # parts that must have been trained before; kept frozen
    NEEDS: ClassVar[tuple[str, ...]] = ()  # parts that must be there, trained or not
    AVERAGED: ClassVar[tuple[str, ...]]  # players whose weights are averaged
    MICRO_BATCH: ClassVar[str]  # which of hardware.micro_batch holds
    METRICS: ClassVar[dict[str, str | None]]  # what may be logged → the loss that must be there for it
    REACHES: ClassVar[dict[str, tuple[str, ...]]]  # term → parts that get gradient from it where they are trained
    CACHES: ClassVar[bool] = False  # whether it can train on what frozen parts say of the data, kept on disk

    def __init__(self, setup: StepContext, losses: dict[str, Loss]) -> None:
        """`losses` are the user's own, by their keys; NEEDS get their gradient."""
        self.losses = losses
        self.own_terms = names(losses, taken=self.METRICS)  # → the key of the loss that gives it
        self.metrics: dict[str, str | None] = {**self.METRICS, **self.own_terms}
        self.reaches = {**self.REACHES, **dict.fromkeys(self.own_terms, self.NEEDS)}
        self.setup, self.machine, self.ranks = setup, setup.machine, setup.ranks
        self.length = setup.length  # as planned, until the step ends early
        self.source: Source | Stored | Stream = setup.data.train
        self.players = build_players(setup, self.PLAYERS, averaged=self.AVERAGED, starts_at=self.starts_at)
        self.sharded = any(player.sharded for player in self.players.values())
        self.scalers = {name: self.machine.scaler() for name in self.players}
        self.accumulation = Accumulation(setup, self.players, self.scalers, kind=self.MICRO_BATCH)
        self.validation = Validation(self)
        self.window, self.rows = Window(), MetricLog(setup.folder.metrics(setup.name), say=setup.console.say)
        self.update_index, self.seconds, self.time_breakdown = 0, 0.0, TimeBreakdown()
        self.held_out: dict[str, float] = {}
        self.latest: dict[str, float] = {}  # metrics of the last update that was read
        rule = setup.transition_on
        self.early_stop = EarlyStop(rule, updates_per_epoch=self.length.updates_per_epoch) if rule.metric else None
        self.ended_by: str | None = None  # why the step ended before its last epoch
        self.skipped = False  # an fp16 overflow kept the last update from some weights
        self.metric_buffer = MetricBuffer(self.machine.device, self.ranks.gather)
        # Whether numbers are read at each update: else the host runs ahead, and optimizers leave out the non-finite.
        self.prompt = (
            self.machine.device.type == "cpu"
            or any(scaler.is_enabled() for scaler in self.scalers.values())
            or not all(player.can_leave_out for player in self.players.values())
            or (self.early_stop is not None and not self.early_stop.held_out)
        )

    @abstractmethod
    def phases(self) -> list[Phase]:
        """The phases of an update, in order."""

    def open_source(self) -> None:  # noqa: B027 - most trainers read the data as they are
        """Called when a step begins and when it continues, before a batch is read."""

    def inputs(self, batch: Batch) -> Tensor:
        """Return the input of the phases, on the device."""
        return self.machine.to_device(batch.images)

    def prepare(self) -> None:  # noqa: B027 - most trainers have nothing to prepare
        """Called before a step's very first update."""

    @abstractmethod
    def begin_update(self, batch: Batch) -> None:
        """Draw what the whole global batch needs; `batch` is this rank's share."""

    def end_update(self) -> dict[str, Tensor]:
        """Called after the last phase; gives further numbers () to log."""
        return {}

    @abstractmethod
    def sample_pictures(self, suffix: str) -> None:
        """Write pictures of the held-out samples."""

    @abstractmethod
    def evaluate(self, *, last: bool, raw: bool = False) -> dict[str, float]:
        """Held-out metrics with averaged or `raw` weights; a plateau follows the first one, lower is better."""

    @abstractmethod
    def health(self, batch: Batch) -> tuple[dict[str, float], HealthContext]:
        """Numbers of latents and opponents on held-out images, and what they are judged by."""

    def kind(self, update: int) -> tuple[str, ...]:
        """Return the names of what this update computes and others may not; updates of one kind cost the same."""
        return ()

    def facts(self) -> dict[str, Any] | None:
        return None  # what a generator must know beside the weights; nothing for parts that do not generate

    def scheduled(self) -> dict[str, float]:
        """Weights of losses that change with the update, as they were in the last one."""
        return {}

    def averaged(self, *, raw: bool = False) -> ExitStack:
        """Averaged weights in place of the trained ones, inside a `with` block; with `raw` these stay."""
        self.accumulation.forget_graphs()  # what is looked at may need their memory
        stack = ExitStack()
        # What is looked at has shapes of its own, seldom seen: not worth compiling.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for player in self.players.values():
            if player.ema and not raw:
                stack.enter_context(player.ema.applied())
        return stack

    def starts_at(self, player: str) -> int:
        return 0  # the update at which a player begins

    def fit(self) -> dict[str, float]:
        """Train from wherever the last checkpoint stands to the end of the step; returns the last held-out metrics."""
        self.begin()
        begun = self.update_index
        try:
            signum = loop.run(self)
        except Interrupted:  # in the wait for a batch
            if self.update_index > begun:
                resume.save(self, final=False)
            raise
        if signum:
            self.ranks.meet()  # no rank leaves before the first has saved
            raise Interrupted(signum)
        return self.held_out

    def begin(self) -> None:
        """Continue from the step's newest checkpoint, or make ready for its first update."""
        self.open_source()
        resume.begin(self)
        self._logged, self._first = (self.update_index, self.seconds), self.update_index + 1
        self._began = clock.now() - self.seconds
        self.setup.folder.report_bad(self.setup.data.bad, self.setup.data, self.setup.console.say)

    def advance(self, batch: Batch) -> None:
        """One update, its row, and what is due to be looked at. NonFiniteError."""
        self.update(batch)
        self.update_index += 1
        if self.prompt or self._row_is_due() or self.update_index == self._first:
            self.settle()
        self.seconds = clock.now() - self._began
        if self.early_stop:
            self.end(self.early_stop.after_update(self.latest, self.update_index, skipped=self.skipped))
        self._log()
        self.validation.after_update()

    def settle(self) -> None:
        """Read what updates gave since the last time. NonFiniteError: the weights are those of before that update."""
        for metrics in self.metric_buffer.take():
            self.window.add(metrics)
            self.latest = metrics

    def noise(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        """Standard normal numbers for the whole global batch of this update, on the device."""
        source = generator(self.setup.seed, self.setup.name, self.update_index, purpose, device=self.machine.device)
        return torch.randn(shape, generator=source, device=self.machine.device)

    def state_dict(self) -> dict[str, Any]:
        return resume.state_of(self)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        resume.restore(self, saved)

    def end(self, reason: str | None) -> None:
        """Make the present update the step's last one, if there is a reason to."""
        if reason and self.update_index < self.length.updates:
            self.ended_by = reason
            self.length = replace(self.length, updates=self.update_index)
            self.setup.console.say(f"Step {self.setup.name} ends after update {self.update_index}: {reason}")

    def batches(self, first: int, last: int, *, alone: bool = False) -> Generator[Batch]:
        """This rank's shares of the training batches of updates [first, last); `alone`: whole batches.

        Whoever does not read to the end closes it. Interrupted: a signal came in the wait for a batch.
        """
        ranks = Ranks() if alone else self.ranks
        found = load_batches(
            self.source,
            seed=self.setup.seed,
            batch_size=self.length.batch_size,
            first_update=first,
            last_update=last,
            num_workers=self.setup.num_workers,
            pin_memory=self.machine.device.type == "cuda",
            rank=ranks.rank,
            ranks=ranks.count,
            image_bytes=3 * self.setup.data.img_size**2,
        )
        with closing(found):
            yield from self.setup.stop.while_idle(found)

    def update(self, batch: Batch) -> None:
        """One optimizer update of each player; `metric_buffer` gets the named terms, averaged over the global batch."""
        images, self.skipped = self.inputs(batch), False
        self.begin_update(batch)
        self.metric_buffer.begin_update()
        for phase in self.phases():
            with phase.training():
                found = self.accumulation.gradients(phase, images, batch.captions, update=self.update_index + 1)
                self.apply(phase, found, batch)
        further = self.end_update()
        if further:
            self.metric_buffer.add(
                PhaseNumbers(self._place(phase), list(further), [], torch.stack(list(further.values())), {}, batch.ids)
            )

    def apply(self, phase: Phase, terms: Terms, batch: Batch) -> None:
        """Clip and apply. What is not finite reaches no weight."""
        scaler = self.scalers[phase.players[0].name]
        for player in phase.players:
            self.ranks.sum_gradients(player.parameters)
        norms = [player.clip_gradients(scaler) for player in phase.players]
        sums = self.ranks.sum(torch.stack([values.sum() for values in terms.values()]))
        numbers = PhaseNumbers(
            self._place(phase),
            list(terms),
            [f"{player.name}_norm" for player in phase.players],
            torch.cat([sums / self.length.batch_size, torch.stack(norms)]),
            terms,
            batch.ids,
            scaler.get_scale() if scaler.is_enabled() else None,
        )
        self.metric_buffer.add(numbers)
        if self.prompt:
            left = numbers.metrics(self.ranks.gather)
            self.skipped = self.skipped or any(name not in left for name in numbers.norms)
        for player in phase.players:
            player.apply(scaler, bad=None if self.prompt else self.metric_buffer.bad)
        scaler.update()

    def _place(self, phase: Phase) -> Place:
        return Place(self.setup.name, self.update_index + 1, tuple(player.name for player in phase.players))

    def _row_is_due(self) -> bool:
        return self.update_index % self.setup.log_every == 0 or self.update_index == self.length.updates

    def _log(self) -> None:
        setup, update, metrics = self.setup, self.update_index, self.latest
        setup.console.advance(self.length, update)
        if not self._row_is_due() and update != self._first:  # the first is shown at once: a row may be minutes away
            return
        per_batch = (self.seconds - self._logged[1]) / max(update - self._logged[0], 1)
        if self._row_is_due():
            self.settle()  # the step may have ended just now
            metrics = self.window.take() | self.scheduled()
            self._logged = (update, self.seconds)
            rates = {name: player.rate() for name, player in self.players.items()}
            self.write_row("train", metrics, rates, {"seconds": self.seconds, "batch_time": per_batch})
        setup.console.progress(self.length, update, metrics, self.seconds, per_batch)

    def write_row(
        self,
        kind: str,
        metrics: dict[str, float],
        learning_rates: dict[str, float] | None = None,
        extras: dict[str, float] | None = None,
        pictures: dict[str, str] | None = None,
        warnings: dict[str, str] | None = None,
    ) -> None:
        """Log `metrics` of the present update with `warnings` of them, or the `pictures` that were made after it."""
        if self.ranks.first:
            self.rows.write(
                kind,
                update=self.update_index,
                epoch=self.length.epoch(self.update_index),
                batch=self.length.batch(self.update_index),
                metrics=metrics,
                learning_rates=learning_rates,
                extras=extras,
                texts={"pictures": pictures, "warnings": warnings},
            )
            if self.setup.wandb:
                self.setup.wandb.catch_up(self.setup.name)
