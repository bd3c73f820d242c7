"""Where a training loop's seconds go: time in which the process could work, measured where the host waits anyway.

Batches that are read ahead cost nothing here; only waiting for them does.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from fluxflow_exp.machine import clock

PURPOSES = ("data", "evaluation", "pictures", "saves", "compile")
BESIDE = ("evaluation", "pictures", "saves")  # what is no part of an update
# What torch.compile counts, without overlap: from bytecode to kernels, and the backward passes that come later.
COMPILATIONS = ("entire_frame_compile", "entire_backward_compile")

Part = TypeVar("Part")


class TimeBreakdown:
    """Seconds of a loop by purpose; what has no other is `training`."""

    def __init__(self) -> None:
        self.beside = 0.0  # seconds that were spent beside updates, in all
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self._since, self._compiled = clock.now(), compiled()
        self._seconds = dict.fromkeys(PURPOSES, 0.0)

    @contextmanager
    def during(self, purpose: str) -> Iterator[None]:
        started = clock.now()
        try:
            yield
        finally:
            seconds = clock.now() - started
            self._seconds[purpose] += seconds
            self.beside += seconds if purpose in BESIDE else 0.0

    def waiting(self, batches: Iterable[Part]) -> Iterator[Part]:
        """Pass `batches` on; the time until each is there is spent on data."""
        waiting = iter(batches)
        while True:
            with self.during("data"):
                batch = next(waiting, None)
            if batch is None:
                return
            yield batch

    def take(self) -> dict[str, float]:
        """Seconds by purpose since the last call or `begin`."""
        now = clock.now()
        found = {**self._seconds, "compile": compiled() - self._compiled}
        found["training"] = max(now - self._since - sum(found.values()), 0.0)
        self.begin()
        return found


def compiled() -> float:
    """Seconds that torch.compile has taken in this process; 0 where it was never asked."""
    if "torch._dynamo.utils" not in sys.modules:  # its import takes seconds
        return 0.0
    from torch._dynamo.utils import cumulative_time_spent_ns

    return sum(cumulative_time_spent_ns[each] for each in COMPILATIONS if each in cumulative_time_spent_ns) / 1e9
