"""Gradients of a rank's share of the batch, summed over micro-batches; smaller ones when memory does not suffice.

Every loss is defined per sample and every draw was made for the whole batch, so the size of a micro-batch changes
nothing but the order of sums.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from fluxflow_exp.errors import UserError
from fluxflow_exp.losses.terms import Terms
from fluxflow_exp.machine.cuda_graphs import CudaGraphs
from fluxflow_exp.machine.gradient_buckets import GradientBuckets
from fluxflow_exp.optimizers.muon import Muon
from fluxflow_exp.run.failures import LESS_MEMORY
from fluxflow_exp.trainers.context import StepContext
from fluxflow_exp.trainers.phase import Micro, Phase
from fluxflow_exp.trainers.player import Player

Scaler = torch.amp.GradScaler
Result = TypeVar("Result")


class Accumulation:
    """Lowers its micro-batch when a pass runs out of memory, and does that phase again."""

    def __init__(
        self, setup: StepContext, players: dict[str, Player], scalers: dict[str, Scaler], *, kind: str
    ) -> None:
        """`kind`: which of hardware.micro_batch holds."""
        self.setup, self.players, self.scalers, self.kind = setup, players, scalers, kind
        self.machine, self.ranks, self.say = setup.machine, setup.ranks, setup.console.say
        self.share = setup.length.batch_size // self.ranks.count  # images of this rank
        self.micro_batch = setup.length.micro_batch
        self.agreed = self.micro_batch  # on all ranks, and in the run's record if an error has lowered it
        self.cuda_graphs: CudaGraphs | None = None
        self.replaying = [player.optimizer for player in players.values() if isinstance(player.optimizer, Muon)]
        self.exchanges = self.ranks.count > 1
        self.buckets: dict[tuple[str, ...], GradientBuckets] = {}  # of the players that a phase trains
        if self.machine.cuda_graphs:
            self.replay()

    def recall(self) -> None:
        """Begin with what an earlier process of this run has found to fit on a machine like this one."""
        folder, name = self.setup.folder, self.setup.name
        found = folder.read_micro_batch(name, self.machine.footprint()) if self.ranks.first else None
        found = self.ranks.from_first(found)
        if found is not None and found < self.micro_batch and self.share % found == 0:
            self.micro_batch = self.agreed = found
            self.say(f"Step {name}: micro-batch {found}, as found before to fit in memory (run.json)")

    def gradients(
        self, phase: Phase, images: Tensor, captions: list[str], *, update: int, exchanged: bool = True
    ) -> Terms:
        """Add up the gradients of `phase` over this rank's share; returns its terms, (share,) each, on the device.

        `exchanged`: the last pass begins to sum them over ranks, which `exchange` ends. UserError: not even one image
        fits.
        """
        batch_size = len(images) * self.ranks.count
        buckets = self._buckets(phase) if exchanged and self.exchanges else None

        def passes() -> Terms:
            phase.begin()
            terms: dict[str, list[Tensor]] = {}
            micros = list(self.micros(images, captions))
            for micro in micros:
                found = self._backward(phase, micro, batch_size, buckets, last=micro is micros[-1])
                for name, values in found.items():
                    terms.setdefault(name, []).append(values)
            return {name: torch.cat(values) for name, values in terms.items()}

        found = self.within_memory(passes, update=update)
        phase.end(found)
        return found

    def exchange(self, phase: Phase) -> None:
        """Let the gradients of `phase` be the sums over ranks."""
        if self.exchanges:
            self._buckets(phase).wait(keep=phase.keeps_gradients)

    def within_memory(self, action: Callable[[], Result], *, update: int) -> Result:
        """Return the result of `action`, which is called again with smaller micro-batches until memory suffices."""
        while True:
            done = attempt(action)
            if done:
                return done[0]
            self._lower(update)

    def micros(self, images: Tensor, captions: list[str]) -> Iterator[Micro]:
        """This rank's share of a batch in slices."""
        before = self.ranks.share(len(images) * self.ranks.count).start
        for first in range(0, len(images), self.micro_batch):
            share = slice(first, first + self.micro_batch)
            yield Micro(images[share], captions[share], slice(before + share.start, before + share.stop), share)

    def micro_batches(self) -> int:
        """Count the micro-batches that this rank's share is now split into."""
        return self.share // self.micro_batch

    def agree(self, micro_batches: int, *, update: int) -> None:
        """After `update`: split into as many as the rank that needs the most, and keep that with the run."""
        size = self.share // micro_batches
        if size == self.agreed:
            return
        if size < self.micro_batch:
            self.say(f"Another rank ran out of memory: micro-batch {size} from here on")
        self.micro_batch = self.agreed = size
        if self.ranks.first:
            found = {"images": size, "update": update, "on": self.machine.footprint()}
            self.setup.folder.record_micro_batch(self.setup.name, found)

    def replay(self, graphs: type[CudaGraphs] = CudaGraphs) -> None:
        """From here on keep passes, and what optimizers can, to be replayed."""
        self.cuda_graphs = graphs()
        for optimizer in self.replaying:
            optimizer.graphs = graphs()

    def launch(self) -> None:
        """From here on replay nothing."""
        self.cuda_graphs = None
        for optimizer in self.replaying:
            optimizer.graphs = None

    def forget_graphs(self) -> None:
        """Free the memory of what is kept to be replayed."""
        for graphs in (self.cuda_graphs, *(optimizer.graphs for optimizer in self.replaying)):
            if graphs:
                graphs.forget()

    def _buckets(self, phase: Phase) -> GradientBuckets:
        names = tuple(player.name for player in phase.players)
        if names not in self.buckets:
            last_first = [p for player in phase.players for p in reversed(player.parameters)]
            self.buckets[names] = GradientBuckets(last_first)
            how = "replayed as CUDA graphs" if self.cuda_graphs and phase.replayed else "launched kernel by kernel"
            self.say(
                f"Step {self.setup.name}: {self.ranks.count} ranks sum the gradients of {' and '.join(names)} in "
                f"{self.buckets[names]}; passes are {how}"
            )
        return self.buckets[names]

    def _backward(
        self, phase: Phase, micro: Micro, batch_size: int, buckets: GradientBuckets | None, *, last: bool
    ) -> Terms:
        with torch.no_grad(), self.machine.autocast():
            arguments = phase.arguments(micro)
        pass_ = partial(self._pass, phase, batch_size, buckets, last)
        if self.cuda_graphs is None:
            return pass_(*arguments)
        if not phase.replayed:
            return pass_(*arguments)
        for player in phase.players:
            player.keeps_gradients = True
        if buckets and buckets.begun:  # memory ran out in an exchange: for the rest of it, gradients are elsewhere
            return pass_(*arguments)
        return self.cuda_graphs.run(pass_, arguments, key=phase.key)

    def _pass(
        self, phase: Phase, batch_size: int, buckets: GradientBuckets | None, last: bool, *arguments: Any
    ) -> Terms:
        with self.machine.autocast():
            terms, weights = phase.loss(*arguments)
        total = sum(weight * terms[name].sum() for name, weight in weights.items())
        assert isinstance(total, Tensor)
        scaler = self.scalers[phase.players[0].name]
        with buckets.filled(last=last, keep=phase.keeps_gradients) if buckets else nullcontext():
            scaler.scale(total / batch_size).backward()  # type: ignore[no-untyped-call]
        found = {name: values.detach() for name, values in terms.items()}
        return {name: values.float() if values.ndim == 1 else values for name, values in found.items()}

    def _lower(self, update: int) -> None:
        """Halve the micro-batch, to a divisor of the share, and free what the failed pass has left."""
        failed = self.micro_batch
        where = f"out of memory with micro-batch {failed} at update {update} of step {self.setup.name!r}"
        players = self.players.values()
        # What is launched beside graphs of other kinds finds their memory taken. It gets that before images go.
        crowded = bool(self.cuda_graphs and self.cuda_graphs.keyed)
        if failed == 1 and not crowded:
            raise UserError(f"{where}. {LESS_MEMORY}")
        smaller = failed if crowded else max(n for n in range(1, failed // 2 + 1) if self.share % n == 0)
        if any(player.sharded for player in players):  # the other ranks are in an exchange of weights with this one
            raise UserError(
                f"{where}. With hardware.parallel=fsdp it cannot be lowered within an update: "
                f"set hardware.micro_batch.{self.kind}={smaller}, and the same command continues"
            )
        for player in players:
            player.optimizer.zero_grad(set_to_none=True)
        self.forget_graphs()
        if crowded:
            self.launch()
        gc.collect()
        if self.machine.device.type == "cuda":
            torch.cuda.empty_cache()
        if crowded:
            self.say(f"{where.capitalize()} and CUDA graphs: doing it again without them, as all that follows")
            return
        self.micro_batch = smaller
        self.say(
            f"{where.capitalize()}: doing it again with {smaller}. Batch, samples and noise stay; "
            "the result is equal to within rounding to that of an update without the error"
        )


def attempt(action: Callable[[], Result]) -> tuple[Result] | None:
    """None: memory did not suffice. The failed pass lives in the error's frames, which are gone on return."""
    try:
        return (action(),)
    except torch.OutOfMemoryError:
        return None
