"""Ranks that are threads of one process: what they tell each other goes through a list, and none of them is started."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fluxflow_exp.machine.ranks import Ranks

Result = TypeVar("Result")
SECONDS = 60.0  # after which a rank that waits for one that does not come gives up


@dataclass
class Meeting:
    """Where the ranks wait for each other, and put down what they have."""

    count: int
    held: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.held = [None] * self.count
        self.barrier = threading.Barrier(self.count)


@dataclass
class Threaded(Ranks):
    """A rank of a `meeting`, which has what CPUs tell each other and no tensors."""

    meeting: Meeting = field(default_factory=lambda: Meeting(1))

    def _all(self, value: Any) -> list[Any]:
        self.meeting.barrier.wait(SECONDS)  # nobody reads any more
        self.meeting.held[self.rank] = value
        self.meeting.barrier.wait(SECONDS)
        return [*self.meeting.held]

    def from_first(self, value: Any) -> Any:
        return self._all(value)[0]

    def to_first(self, value: Any) -> list[Any]:
        held = self._all(value)
        return held if self.first else []

    def gather(self, values: list[Any]) -> list[Any]:
        return [value for part in self._all(values) for value in part]


def together(count: int, action: Callable[[Ranks], Result]) -> list[Result]:
    """What `action` gives on each of `count` ranks."""
    meeting = Meeting(count)
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(action, [Threaded(rank, count, meeting=meeting) for rank in range(count)]))
