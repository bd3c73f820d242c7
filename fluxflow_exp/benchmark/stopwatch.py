"""How fast a machine is: times of calls, without making a GPU wait between them, and its rate of matrix products."""

import statistics
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch

from fluxflow_exp.machine.hardware import Machine


def timed(calls: Iterable[Callable[[], Any]], machine: Machine) -> list[float]:
    """Seconds of each call. On a GPU from the end of one to the end of the next, while the host runs ahead."""
    if machine.device.type != "cuda":
        times = []
        for call in calls:
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        return times
    torch.cuda.synchronize()
    marks = [_mark()]
    for call in calls:
        call()
        marks.append(_mark())
    torch.cuda.synchronize()
    return [before.elapsed_time(after) / 1000 for before, after in pairwise(marks)]


def matrix_rate(machine: Machine) -> float:
    """TFLOP/s of a large matrix product in the machine's precision, random numbers; median of ten."""
    size = 8192 if machine.device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=machine.device) for _ in range(2))
    with machine.autocast():
        times = timed((lambda: a @ b for _ in range(13)), machine)[3:]
    return 2 * size**3 / statistics.median(times) / 1e12


def _mark() -> torch.cuda.Event:
    mark = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    mark.record()
    return mark
