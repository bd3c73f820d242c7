"""Seconds, work and memory of a step's updates on this machine, taken by its own trainer, of which nothing is kept."""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from fluxflow_exp.benchmark.stopwatch import matrix_rate, timed
from fluxflow_exp.config.compose import typed
from fluxflow_exp.data.build import build_data
from fluxflow_exp.data.loader import Batch
from fluxflow_exp.errors import UserError, counted, did_you_mean
from fluxflow_exp.machine import clock
from fluxflow_exp.machine.hardware import Machine, prepare
from fluxflow_exp.machine.preemption import StopRequest
from fluxflow_exp.monitor.finite import NonFiniteError
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.step_length import lengths_of
from fluxflow_exp.trainers.base import Trainer
from fluxflow_exp.trainers.build import build_trainer, run_context

WARM_UP = 3  # updates, beside the first, before anything is measured
PROFILED = 3  # updates in which the host's waits are counted
KERNELS = 20  # that take longest, listed
# What makes the host wait for the GPU, by the names that torch's profiler gives.
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


def measure(values: dict[str, Any], *, updates: int = 20, only: list[str] | None = None) -> dict[str, Any]:
    """Time `updates` updates of each step (or of those in `only`) of the resolved configuration `values`.

    Gives the numbers as `--json` writes them. UserError: a step trains for too few updates, or there is no such step.
    """
    known = list(values["stage"]["steps"])
    for name in only or []:
        if name not in known:
            raise UserError(
                f"--step {name}: stage={values['stage']['name']} has no such step{did_you_mean(name, known)}. "
                f"Its steps: {', '.join(known)}"
            )
    with _trainers(values) as (machine, trainer_of):
        # What bounds a CPU is seldom its matrix product: small caches and threads do, and shares of it mislead.
        rate = matrix_rate(machine) if machine.device.type == "cuda" else None
        return {
            "date": clock.date(),
            "torch": torch.__version__,
            "python": sys.version.split()[0],
            "machine": machine.describe(),
            "matrix_tflops": rate,
            "steps": {
                name: Measurement(trainer_of(name), updates).take(rate) for name in known if not only or name in only
            },
        }


@contextmanager
def warm(values: dict[str, Any], step: str, *, diverging: bool = False) -> Iterator[Callable[[int], list[float]]]:
    """How many updates of one step → their seconds, batches being in memory and everything compiled.

    `diverging`: updates that are not finite are timed as well, since that is the business of the run.
    """
    with _trainers(values) as (_, trainer_of):
        measurement = Measurement(trainer_of(step), 1, diverging=diverging)
        batches, _ = measurement.warm_up()
        yield lambda count: measurement.times(batches, count)


@contextmanager
def _trainers(values: dict[str, Any]) -> Iterator[tuple[Machine, Callable[[str], Trainer]]]:
    """This machine, and the trainer of each step of `values` on it, which leaves nothing behind.

    UserError: its updates diverge, as those of a run would.
    """
    with tempfile.TemporaryDirectory() as scratch:
        config = typed({**values, "output_root": scratch})
        machine, data = prepare(config.hardware), build_data(config)
        lengths = lengths_of(config, data)
        stop = StopRequest()  # never entered: there is nothing to save, so a signal ends the command at once
        run = run_context(config, RunFolder(Path(scratch) / "run"), machine, stop=stop)
        try:
            yield machine, lambda name: build_trainer(config, name, run, length=lengths[name], data=data[name])
        except NonFiniteError as error:
            raise UserError(f"its updates cannot be timed: {error}") from error


class Measurement:
    """Of one step's updates, none of which is kept."""

    def __init__(self, trainer: Trainer, updates: int, *, diverging: bool = False) -> None:
        """UserError: the step has too few updates."""
        self.diverging = diverging
        self.trainer, self.updates, self.machine = trainer, updates, trainer.machine
        # GANs begin later than their step does: what is measured has all players in it.
        self.first = max(player.start for player in trainer.players.values())
        needed = self.first + updates
        if trainer.length.updates < needed:
            raise UserError(
                f"step {trainer.setup.name} has {counted(trainer.length.updates, 'update')}, and {needed} are needed: "
                f"raise stage.steps.{trainer.setup.name}.n_epochs, or ask for fewer --updates"
            )

    def warm_up(self) -> tuple[list[Batch], float]:
        """Batches that have been trained on, and the seconds of the first."""
        trainer = self.trainer
        trainer.update_index = self.first
        trainer.open_source()
        trainer.prepare()
        batches = list(self.batches(WARM_UP + 1))
        started = time.perf_counter()
        self._run(batches[:1])
        first = time.perf_counter() - started
        self.machine.forget_peak()  # what compiling took does not count; graphs take their memory in the next updates
        self._run(batches[1:])
        return batches, first

    def take(self, matrix_tflops: float | None) -> dict[str, Any]:
        trainer, length = self.trainer, self.trainer.length
        batches, first = self.warm_up()
        alone = self.times(batches, self.updates)
        peak = self.machine.peak_gib()
        # The first one waits for workers to start.
        loaded = self.times(self.batches(self.updates + 1), self.updates + 1)[1:]
        seconds = statistics.median(alone)
        tflop = self._tflop(batches[0])
        mean = statistics.mean(alone)
        return {
            "batch_size": length.batch_size,
            "micro_batch": trainer.accumulation.micro_batch,
            "parameters": {
                name: sum(p.numel() for p in part.parameters()) for name, part in trainer.setup.parts.items()
            },
            "seconds": {"median": seconds, "mean": mean, "least": min(alone), "most": max(alone)},
            "images_per_second": length.batch_size / mean,
            "peak_gib": peak,
            "tflop": tflop,
            "tflops": tflop / mean,
            "share_of_matrix_rate": tflop / mean / matrix_tflops if matrix_tflops else None,
            "with_loader_seconds": {"median": statistics.median(loaded), "mean": statistics.mean(loaded)},
            "data_wait": max(0.0, 1 - mean / statistics.mean(loaded)),
            "first_update_seconds": first,
            **self._profile(batches),
        }

    def batches(self, count: int) -> Iterator[Batch]:
        """As many of the step's batches, by its own loader."""
        with closing(self.trainer.batches(self.first, self.trainer.length.updates)) as batches:
            yield from islice(batches, count)

    def _run(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            self._update(batch)
            self.trainer.update_index += 1
        self.rewind()

    def rewind(self) -> None:
        """Read what updates gave, and stand before the first one again."""
        with self._finite():
            self.trainer.settle()
        self.trainer.update_index = self.first

    def _finite(self) -> AbstractContextManager[None]:
        """Where what is not finite is an error, unless updates may diverge."""
        return suppress(NonFiniteError) if self.diverging else nullcontext()

    def _update(self, batch: Batch) -> None:
        with self._finite():
            self.trainer.update(batch)

    def times(self, batches: Iterable[Batch], count: int) -> list[float]:
        """Seconds of each of `count` updates; batches in memory are gone through again and again."""
        trainer = self.trainer
        given = islice(cycle(batches), count) if isinstance(batches, list) else batches

        def updates() -> Iterator[Any]:
            for batch in given:
                yield lambda batch=batch: self._update(batch)
                trainer.update_index += 1

        times = timed(updates(), self.machine)
        self.rewind()
        return times

    def _tflop(self, batch: Batch) -> float:
        """TFLOP of an update without R1, counted by torch; multiplications and additions count apart."""
        trainer = self.trainer
        trainer.update_index = self.first + 1
        counter = FlopCounterMode(display=False)
        replays = trainer.accumulation.cuda_graphs is not None
        trainer.accumulation.launch()
        with torch.compiler.set_stance("force_eager"), counter:
            trainer.update(batch)
        if replays:
            trainer.accumulation.replay()
        self.rewind()
        return counter.get_total_flops() / 1e12

    def _profile(self, batches: list[Batch]) -> dict[str, Any]:
        """How often an update makes the host wait for the GPU, and the kernels that take longest; nothing on a CPU."""
        if self.machine.device.type != "cuda":
            return {"host_waits": None, "kernels": []}
        self._run(batches[:1])
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            for batch in islice(cycle(batches), PROFILED):
                self.trainer.update(batch)
                self.trainer.update_index += 1
        self.rewind()
        events = profiler.key_averages()
        waits = sum(event.count for event in events if event.key in WAITS)
        kernels = sorted((e for e in events if e.self_device_time_total), key=lambda e: -e.self_device_time_total)
        return {
            "host_waits": max(0, waits - 1) / PROFILED,  # the profiler itself waits once, at its end
            "kernels": [
                {"name": e.key, "seconds": e.self_device_time_total / 1e6 / PROFILED, "calls": e.count / PROFILED}
                for e in kernels[:KERNELS]
            ],
        }
