"""What one of several ranks makes of a step's updates: how long they take, and what it waits for.

All ranks call `of_rank` together; docs/benchmarks/gpus.py starts them.
"""

import statistics
import time
from collections.abc import Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from fluxflow_exp.benchmark.measurement import PROFILED, Measurement
from fluxflow_exp.config.compose import typed
from fluxflow_exp.data.build import build_data
from fluxflow_exp.data.loader import Batch
from fluxflow_exp.machine import cores
from fluxflow_exp.machine.hardware import prepare
from fluxflow_exp.machine.preemption import StopRequest
from fluxflow_exp.machine.ranks import local_rank, start_ranks
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.step_length import lengths_of
from fluxflow_exp.trainers.build import build_trainer, run_context

Span = tuple[float, float]  # beginning and end, in one unit


def of_rank(values: dict[str, Any], step: str, *, updates: int) -> dict[str, Any]:
    """Time `updates` updates of `step`, with batches in memory and with the loader; the numbers of this rank.

    `output_root` of the resolved configuration is a folder that all ranks share, and that is thrown away.
    """
    config = typed(values)
    machine = prepare(config.hardware, local_rank=local_rank())
    ranks = start_ranks(machine.device, config.hardware.devices)
    try:
        if not ranks.first:  # what the first rank indexes, the others find
            ranks.meet()
        data = build_data(config)
        if ranks.first:
            ranks.meet()
        with StopRequest() as stop:
            folder = RunFolder(Path(config.output_root) / "run", first=ranks.first)
            run = run_context(config, folder, machine, ranks=ranks, stop=stop)
            length = lengths_of(config, data, ranks=ranks.count)[step]
            measured = Measurement(build_trainer(config, step, run, length=length, data=data[step]), updates)
            found = _taken(measured, updates)
    except Exception as error:
        ranks.fail(error, f"{type(error).__name__}: {error}")
        ranks.outlive_others()
        raise
    ranks.leave()
    return found


def _taken(measured: Measurement, updates: int) -> dict[str, Any]:
    trainer = measured.trainer
    batches, first = measured.warm_up()
    in_memory = measured.times(batches, updates)
    peak = measured.machine.peak_gib()
    waits: list[float] = []
    # The first batch waits for workers to start.
    loaded = measured.times(_waiting(measured.batches(updates + 1), waits), updates + 1)[1:]
    return {
        "batch_size": trainer.length.batch_size,
        "micro_batch": trainer.accumulation.micro_batch,
        "seconds": spread(loaded),
        "seconds_in_memory": spread(in_memory),
        "each_in_memory": [round(each, 5) for each in in_memory],
        "data_wait": max(0.0, 1 - statistics.mean(in_memory) / statistics.mean(loaded)),
        "host_wait": sum(waits[1:]) / sum(loaded),
        "peak_gib": peak,
        "first_update_seconds": first,
        "num_workers": trainer.setup.num_workers,
        "cores": cores.usable(),
        **_communication(measured, batches),
    }


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, quartiles and extremes."""
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median": median, "lower": lower, "upper": upper, "least": min(seconds), "most": max(seconds)}


def shares(exchanges: list[Span], work: list[Span]) -> tuple[float, float, float]:
    """Of the time from the first beginning to the last end: what exchanges take, what they take with no work beside
    them, and what passes with neither.

    Spans of one kind may overlap.
    """
    everything = [*exchanges, *work]
    if not everything:
        return 0.0, 0.0, 0.0
    whole = max(end for _, end in everything) - min(begin for begin, _ in everything)
    exchanging, any_time = _covered(exchanges), _covered(everything)
    return exchanging / whole, (any_time - _covered(work)) / whole, 1 - any_time / whole


def _covered(spans: list[Span]) -> float:
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return total


def _waiting(batches: Iterable[Batch], waits: list[float]) -> Iterator[Batch]:
    """Pass `batches` on; `waits` gets the seconds that the host waited for each."""
    waiting = iter(batches)
    while True:
        started = time.perf_counter()
        batch = next(waiting, None)
        if batch is None:
            return
        waits.append(time.perf_counter() - started)
        yield batch


def _communication(measured: Measurement, batches: list[Batch]) -> dict[str, float | None]:
    """Shares of the GPU's time that NCCL's kernels take, in all and with no other kernel beside, and that it idles.

    None on a CPU.
    """
    if measured.machine.device.type != "cuda":
        return dict.fromkeys(("communication", "communication_alone", "idle"))
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for batch in islice(cycle(batches), PROFILED):
            measured.trainer.update(batch)
            measured.trainer.update_index += 1
        torch.cuda.synchronize()
    measured.rewind()
    spans: tuple[list[Span], list[Span]] = ([], [])
    for event in profiler.events() or []:
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            spans[not event.name.startswith("nccl")].append((event.time_range.start, event.time_range.end))
    return dict(zip(("communication", "communication_alone", "idle"), shares(*spans), strict=True))
