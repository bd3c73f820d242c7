"""One update of the players: a subclass says what is computed, in phases; this class differentiates and applies."""

from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import ClassVar

import torch
from torch import Tensor, nn

from fluxflow_exp.data.loader import Batch
from fluxflow_exp.losses.terms import Loss, Terms, names
from fluxflow_exp.monitor.finite import Place
from fluxflow_exp.monitor.metric_buffer import MetricBuffer, PhaseNumbers
from fluxflow_exp.seeding import generator
from fluxflow_exp.trainers.accumulation import Accumulation
from fluxflow_exp.trainers.context import StepContext
from fluxflow_exp.trainers.phase import Phase
from fluxflow_exp.trainers.player import build_players


class Updates(ABC):
    PLAYERS: ClassVar[dict[str, tuple[str, ...]]]  # player → parts
    USES: ClassVar[tuple[str, ...]] = ()  # parts that must have been trained before; kept frozen
    NEEDS: ClassVar[tuple[str, ...]] = ()  # parts that must be there, trained or not
    AVERAGED: ClassVar[tuple[str, ...]]  # players whose weights are averaged
    MICRO_BATCH: ClassVar[str]  # which of hardware.micro_batch holds
    METRICS: ClassVar[dict[str, str | None]]  # what may be logged → the loss (or its key) that is on then
    REACHES: ClassVar[dict[str, tuple[str, ...]]]  # term → parts that get gradient from it where they are trained
    GIVES: ClassVar[tuple[str, ...] | None] = None  # the tensors that a loss of the user's own is called with
    FROM_PUBLISHED: ClassVar[bool] = False  # goes on from averaged weights, as published, and not from raw ones
    CACHES_DRAWN: ClassVar[bool] = False  # of a mixture, too: elsewhere runs began without, and go on as they are
    CACHES: ClassVar[bool] = False  # whether it can train on what frozen parts say of the data, kept on disk

    def __init__(self, setup: StepContext, losses: dict[str, Loss]) -> None:
        """`losses` are the user's own, by their keys; NEEDS get their gradient."""
        self.losses = losses
        self.own_terms = names(losses, taken=self.METRICS, given=self.GIVES)  # → the key of the loss that gives it
        self.metrics: dict[str, str | None] = {**self.METRICS, **self.own_terms}
        self.reaches = {**self.REACHES, **dict.fromkeys(self.own_terms, self.NEEDS)}
        self.setup, self.machine, self.ranks = setup, setup.machine, setup.ranks
        self.length = setup.length  # as planned, until the step ends early
        self.players = build_players(
            setup, self.PLAYERS, averaged=self.AVERAGED, starts_at=self.starts_at, beside=self.beside()
        )
        self.sharded = any(player.sharded for player in self.players.values())
        self.scalers = {name: self.machine.scaler() for name in self.players}
        self.accumulation = Accumulation(setup, self.players, self.scalers, kind=self.MICRO_BATCH)
        self.update_index = 0  # updates that are done
        self.views = 1  # of a picture, whose latents are kept where those are cached
        self.skipped = False  # an fp16 overflow kept the last update from some weights
        self.metric_buffer = MetricBuffer(self.machine.device, self.ranks.gather)
        # Whether numbers are read at each update: else the host runs ahead, and optimizers leave out the non-finite.
        self.prompt = (
            self.machine.device.type == "cpu"
            or any(scaler.is_enabled() for scaler in self.scalers.values())
            or not all(player.can_leave_out for player in self.players.values())
        )

    @abstractmethod
    def phases(self) -> list[Phase]:
        """The phases of an update, in order."""

    def inputs(self, batch: Batch) -> Tensor:
        """The tensor that phases get of a batch, on the device."""
        return self.machine.to_device(batch.images)

    @abstractmethod
    def begin_update(self, batch: Batch) -> None:
        """Draw what the whole global batch needs; `batch` is this rank's share."""

    def end_update(self) -> dict[str, Tensor]:
        """Called after the last phase; gives further numbers () to log."""
        return {}

    def kind(self, update: int) -> tuple[str, ...]:
        """Names of what this update computes and others may not; updates of one kind cost the same."""
        return ()

    def starts_at(self, player: str) -> int:
        return 0  # the update at which a player begins

    def beside(self) -> dict[str, dict[str, nn.Module]]:
        """Player → modules that a loss has trained with its parts, by names that no part has."""
        return {}

    def features(self, images: Tensor) -> Tensor | None:
        """What a teacher would give of `images` (n, 3, height, width) in [-1, 1], to be kept; None: there is none."""
        return None

    def noise(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        """Standard normal numbers for the whole global batch of this update, on the device."""
        source = generator(self.setup.seed, self.setup.name, self.update_index, purpose, device=self.machine.device)
        return torch.randn(shape, generator=source, device=self.machine.device)

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
        self.accumulation.exchange(phase)
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
