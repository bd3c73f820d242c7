"""Gradients of a rank's share of the batch, summed over micro-batches; smaller ones when memory does not suffice.

Every loss is defined per sample and every draw was made for the whole batch, so the size of a micro-batch changes
nothing but the order of sums.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from fluxflow_exp.errors import UserError
from fluxflow_exp.losses.terms import Terms
from fluxflow_exp.run.failures import LESS_MEMORY
from fluxflow_exp.trainers.cuda_graphs import CudaGraphs
from fluxflow_exp.trainers.phase import Micro, Phase

if TYPE_CHECKING:
    from fluxflow_exp.trainers.base import Trainer

Result = TypeVar("Result")


class Accumulation:
    """Lowers `length.micro_batch` of its trainer when a pass runs out of memory, and does that phase again."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.length = trainer, trainer.length
        self.share = self.length.batch_size // trainer.ranks.count  # images of this rank
        self.agreed = self.length.micro_batch  # on all ranks, and in the run's record if an error has lowered it
        self.cuda_graphs = CudaGraphs() if trainer.machine.cuda_graphs and trainer.ranks.count == 1 else None

    def recall(self) -> None:
        """Begin with what an earlier process of this run has found to fit on a machine like this one."""
        trainer = self.trainer
        folder, name = trainer.setup.folder, trainer.setup.name
        found = folder.read_micro_batch(name, trainer.machine.footprint()) if trainer.ranks.first else None
        found = trainer.ranks.from_first(found)
        if found is not None and found < self.length.micro_batch and self.share % found == 0:
            self.length.micro_batch = self.agreed = found
            trainer.setup.console.say(f"Step {name}: micro-batch {found}, as found before to fit in memory (run.json)")

    def gradients(self, phase: Phase, images: Tensor, captions: list[str]) -> Terms:
        """Add up the gradients of `phase` over this rank's share; returns its terms, (share,) each, on the device.

        UserError: not even one image fits.
        """

        def passes() -> Terms:
            phase.begin()
            terms: dict[str, list[Tensor]] = {}
            for micro in self.micros(images, captions):
                for name, values in self._backward(phase, micro).items():
                    terms.setdefault(name, []).append(values)
            return {name: torch.cat(values) for name, values in terms.items()}

        return self.within_memory(passes)

    def within_memory(self, action: Callable[[], Result]) -> Result:
        """What `action` gives, which is called again with smaller micro-batches until memory suffices."""
        while True:
            done = attempt(action)
            if done:
                return done[0]
            self._lower()

    def micros(self, images: Tensor, captions: list[str]) -> Iterator[Micro]:
        """This rank's share of a batch in slices."""
        before = self.trainer.ranks.share(self.length.batch_size).start
        for first in range(0, len(images), self.length.micro_batch):
            share = slice(first, first + self.length.micro_batch)
            yield Micro(images[share], captions[share], slice(before + share.start, before + share.stop), share)

    def micro_batches(self) -> int:
        """How many this rank's share is now split into."""
        return self.share // self.length.micro_batch

    def agree(self, micro_batches: int) -> None:
        """After an update: split into as many as the rank that needs the most, and keep that with the run."""
        trainer, size = self.trainer, self.share // micro_batches
        if size == self.agreed:
            return
        if size < self.length.micro_batch:
            trainer.setup.console.say(f"Another rank ran out of memory: micro-batch {size} from here on")
        self.length.micro_batch = self.agreed = size
        if trainer.ranks.first:
            found = {"images": size, "update": trainer.update_index, "on": trainer.machine.footprint()}
            trainer.setup.folder.record_micro_batch(trainer.setup.name, found)

    def forget_graphs(self) -> None:
        """Free the memory of passes that are kept to be replayed."""
        if self.cuda_graphs:
            self.cuda_graphs.forget()

    def _backward(self, phase: Phase, micro: Micro) -> Terms:
        with torch.no_grad(), self.trainer.machine.autocast():
            arguments = phase.arguments(micro)
        if self.cuda_graphs is None:
            return self._pass(phase, *arguments)
        if not phase.replayed:
            self.cuda_graphs.forget()
            return self._pass(phase, *arguments)
        for player in phase.players:
            player.keeps_gradients = True
        return self.cuda_graphs.run(partial(self._pass, phase), arguments)

    def _pass(self, phase: Phase, *arguments: Any) -> Terms:
        trainer = self.trainer
        with trainer.machine.autocast():
            terms, weights = phase.loss(*arguments)
        total = sum(weight * terms[name].sum() for name, weight in weights.items())
        assert isinstance(total, Tensor)
        scaler = trainer.scalers[phase.players[0].name]
        scaler.scale(total / self.length.batch_size).backward()  # type: ignore[no-untyped-call]
        return {name: values.detach().float() for name, values in terms.items()}

    def _lower(self) -> None:
        """Halve the micro-batch, to a divisor of the share, and free what the failed pass has left."""
        trainer, failed = self.trainer, self.length.micro_batch
        where = f"out of memory with micro-batch {failed} at update {trainer.update_index + 1} of step " + (
            repr(trainer.setup.name)
        )
        if failed == 1:
            raise UserError(f"{where}. {LESS_MEMORY}")
        smaller = max(n for n in range(1, failed // 2 + 1) if self.share % n == 0)
        if trainer.sharded:  # the other ranks are in the middle of an exchange of weights with this one
            raise UserError(
                f"{where}. With hardware.parallel=fsdp it cannot be lowered within an update: "
                f"set hardware.micro_batch.{trainer.MICRO_BATCH}={smaller}, and the same command continues"
            )
        for player in trainer.players.values():
            player.optimizer.zero_grad(set_to_none=True)
        self.forget_graphs()
        gc.collect()
        if trainer.machine.device.type == "cuda":
            torch.cuda.empty_cache()
        self.length.micro_batch = smaller
        trainer.setup.console.say(
            f"{where.capitalize()}: doing it again with {smaller}. Batch, samples and noise stay; "
            "the result is equal to within rounding to that of an update without the error"
        )


def attempt(action: Callable[[], Result]) -> tuple[Result] | None:
    """None: memory did not suffice. The failed pass lives in the error's frames, which are gone on return."""
    try:
        return (action(),)
    except torch.OutOfMemoryError:
        return None
