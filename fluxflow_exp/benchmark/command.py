"""`python -m fluxflow_exp.benchmark OVERRIDES…`: how fast each step of a stage trains here, and what bounds it.

Nothing is kept of the training: parts start from fresh weights, and no run folder is written.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from fluxflow_exp import files
from fluxflow_exp.benchmark.stopwatch import matrix_rate, timed
from fluxflow_exp.config.compose import instantiate, typed
from fluxflow_exp.config.overrides import values_of
from fluxflow_exp.console import Console
from fluxflow_exp.data.build import build_data
from fluxflow_exp.data.loader import Batch
from fluxflow_exp.errors import UserError, did_you_mean
from fluxflow_exp.machine.hardware import Machine, prepare
from fluxflow_exp.machine.preemption import StopRequest
from fluxflow_exp.machine.ranks import Ranks
from fluxflow_exp.pipeline import Pipeline
from fluxflow_exp.preflight import check
from fluxflow_exp.run import failures
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.wandb import WandbRun
from fluxflow_exp.step_length import lengths_of
from fluxflow_exp.trainers.base import Trainer

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
    with tempfile.TemporaryDirectory() as scratch:
        return _measured({**values, "output_root": scratch}, Path(scratch), updates, only)


@contextmanager
def warm(values: dict[str, Any], step: str) -> Iterator[Callable[[int], list[float]]]:
    """How many updates of one step → their seconds, batches being in memory and everything compiled."""
    with tempfile.TemporaryDirectory() as scratch, _open({**values, "output_root": scratch}, Path(scratch)) as pipeline:
        measurement = _Measurement(_trainer(pipeline, step), 1)
        batches, _ = measurement.warm_up()
        yield lambda count: measurement.times(batches, count)


def _measured(values: dict[str, Any], scratch: Path, updates: int, only: list[str] | None) -> dict[str, Any]:
    with _open(values, scratch) as pipeline:
        machine = pipeline.machine
        found: dict[str, Any] = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "torch": torch.__version__,
            "python": sys.version.split()[0],
            "machine": machine.describe(),
            # What bounds a CPU is seldom its matrix product: small caches and threads do, and shares of it mislead.
            "matrix_tflops": matrix_rate(machine) if machine.device.type == "cuda" else None,
            "steps": {},
        }
        for name in pipeline.config.stage.steps:
            if not only or name in only:
                found["steps"][name] = _Measurement(_trainer(pipeline, name), updates).take(found["matrix_tflops"])
    return found


@contextmanager
def _open(values: dict[str, Any], scratch: Path) -> Iterator[Pipeline]:
    """The pipeline of `values`, on this machine, which leaves nothing outside of `scratch`."""
    config = typed(values)
    machine = prepare(config.hardware)
    data = build_data(config)
    lengths = lengths_of(config, data)
    with StopRequest() as stop:
        folder, console = RunFolder(scratch / "run"), Console(quiet=True)
        folder.freeze(values)
        wandb = WandbRun(folder, config.tracking, console)
        yield Pipeline(config, folder, machine, Ranks(), console, lengths, data, stop, wandb)


def _trainer(pipeline: Pipeline, name: str) -> Trainer:
    steps = pipeline.config.stage.steps
    trainer: Trainer = instantiate(
        steps[name].trainer, setup=pipeline.setup(list(steps).index(name) + 1, name, steps[name], [])
    )
    return trainer


class _Measurement:
    def __init__(self, trainer: Trainer, updates: int) -> None:
        self.trainer, self.updates, self.machine = trainer, updates, trainer.machine
        # GANs begin later than their step does: what is measured has all players in it.
        self.first = max(player.start for player in trainer.players.values())
        needed = self.first + updates
        if trainer.length.updates < needed:
            raise UserError(
                f"step {trainer.setup.name} has {trainer.length.updates} updates, and {needed} are needed: raise "
                f"stage.steps.{trainer.setup.name}.n_epochs, or ask for fewer --updates"
            )

    def warm_up(self) -> tuple[list[Batch], float]:
        """Batches that have been trained on, and the seconds of the first."""
        trainer = self.trainer
        trainer.update_index = self.first
        trainer.open_source()
        trainer.prepare()
        batches = list(self._batches(WARM_UP + 1))
        started = time.perf_counter()
        self._run(batches[:1])
        first = time.perf_counter() - started
        _reset_peak(self.machine)  # what compiling took does not count; graphs take their memory in the next updates
        self._run(batches[1:])
        return batches, first

    def take(self, matrix_tflops: float | None) -> dict[str, Any]:
        trainer, length = self.trainer, self.trainer.length
        batches, first = self.warm_up()
        alone = self.times(batches, self.updates)
        peak = _peak(self.machine)
        # The first one waits for workers to start.
        loaded = self.times(self._batches(self.updates + 1), self.updates + 1)[1:]
        seconds = statistics.median(alone)
        tflop = self._tflop(batches[0])
        mean = statistics.mean(alone)
        return {
            "batch_size": length.batch_size,
            "micro_batch": length.micro_batch,
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

    def _batches(self, count: int) -> Iterator[Batch]:
        with closing(self.trainer.batches(self.first, self.trainer.length.updates)) as batches:
            yield from islice(batches, count)

    def _run(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            self.trainer.update(batch)
            self.trainer.update_index += 1
        self.trainer.settle()
        self.trainer.update_index = self.first

    def times(self, batches: Iterable[Batch], count: int) -> list[float]:
        """Seconds of each of `count` updates; batches in memory are gone through again and again."""
        trainer = self.trainer
        given = islice(_cycle(batches), count) if isinstance(batches, list) else batches

        def updates() -> Iterator[Any]:
            for batch in given:
                yield lambda batch=batch: trainer.update(batch)
                trainer.update_index += 1

        times = timed(updates(), self.machine)
        trainer.settle()
        trainer.update_index = self.first
        return times

    def _tflop(self, batch: Batch) -> float:
        """TFLOP of an update without R1, counted by torch; multiplications and additions count apart."""
        trainer = self.trainer
        trainer.update_index = self.first + 1
        counter = FlopCounterMode(display=False)
        kept, trainer.accumulation.cuda_graphs = trainer.accumulation.cuda_graphs, None
        with torch.compiler.set_stance("force_eager"), counter:
            trainer.update(batch)
        trainer.accumulation.cuda_graphs = kept
        trainer.settle()
        trainer.update_index = self.first
        return counter.get_total_flops() / 1e12

    def _profile(self, batches: list[Batch]) -> dict[str, Any]:
        """How often an update makes the host wait for the GPU, and the kernels that take longest; nothing on a CPU."""
        if self.machine.device.type != "cuda":
            return {"host_waits": None, "kernels": []}
        self._run(batches[:1])
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            for batch in islice(_cycle(batches), PROFILED):
                self.trainer.update(batch)
                self.trainer.update_index += 1
        self.trainer.settle()
        self.trainer.update_index = self.first
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


def _cycle(batches: list[Batch]) -> Iterator[Batch]:
    while True:
        yield from batches


def _reset_peak(machine: Machine) -> None:
    if machine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak(machine: Machine) -> float | None:
    """GiB of the GPU that tensors have taken at most; None without one."""
    return torch.cuda.max_memory_allocated() / 2**30 if machine.device.type == "cuda" else None


def table(found: dict[str, Any], *, kernels: bool = False) -> str:
    matrix = f"; matrix product {found['matrix_tflops']:.4g} TFLOP/s" if found["matrix_tflops"] else ""
    lines = [f"{found['machine']}; torch {found['torch']}{matrix}"]
    for name, step in found["steps"].items():
        share = step["share_of_matrix_rate"]
        spread = f"{step['seconds']['least']:.4g} to {step['seconds']['most']:.4g}"
        lines += [
            f"Step {name}: {step['batch_size']} images an update, {step['micro_batch']} at a time",
            f"  {step['seconds']['median']:.4g} s an update ({spread}), {step['images_per_second']:.4g} images/s",
            f"  {step['tflop']:.4g} TFLOP an update: {step['tflops']:.4g} TFLOP/s"
            + (f", {share:.0%} of the matrix product's" if share is not None else ""),
            f"  waiting for data: {step['data_wait']:.1%} of the time",
            f"  first update (whatever is compiled, is in it): {step['first_update_seconds']:.3g} s",
        ]
        lines += [
            f"  {k['seconds'] * 1000:9.3f} ms {k['calls']:6.0f} x {k['name'][:90]}" for k in step["kernels"] if kernels
        ]
        if step["peak_gib"] is None:
            lines.append("  memory, kernels and the host's waits: on a GPU only")
        else:
            lines.append(
                f"  peak memory {step['peak_gib']:.2f} GiB; the host waits {step['host_waits']:.3g} times an update"
            )
    return "\n".join(lines)


@failures.command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.benchmark",
        description="Time each step of a stage (by default the quickstart's) here: seconds an update, TFLOP/s, waiting "
        "for data; on a GPU also memory and the host's waits. Below ten updates the figures are rough.",
        epilog="Example: python -m fluxflow_exp.benchmark stage=vae_gan model=compact hardware=h200 data.img_size=256",
    )
    parser.add_argument("overrides", nargs="*", help="as of the training command")
    parser.add_argument("--step", action="append", metavar="NAME", help="measure this step of the stage alone")
    parser.add_argument("--updates", type=int, default=20, help="updates that are timed (default 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    parser.add_argument("--kernels", action="store_true", help="list what the GPU spends its time on")
    options = parser.parse_intermixed_args(arguments)
    problems = [f"--updates must be at least 2, not {options.updates}"] if options.updates < 2 else []
    try:
        values = values_of([*options.overrides, "tracking=off"])
        problems += check.problems(values)
        found = measure(values, updates=options.updates, only=options.step) if not problems else {}
    except UserError as error:
        problems += error.args
    if problems:
        raise UserError(*problems)
    print(table(found, kernels=options.kernels))
    if options.json:
        files.write_json(options.json, {"overrides": options.overrides, **found})
    return 0
