"""A clock that goes on with what a run does, and in no other way."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from fluxflow_exp.machine import clock

Cost = tuple[Any, str, float]  # owner, name of its function, seconds


def slowed(monkeypatch: pytest.MonkeyPatch, costs: Iterable[Cost]) -> list[float]:
    """Let each call of these take so long; the seconds of the clock, one number."""
    seconds = [0.0]
    monkeypatch.setattr(clock, "now", lambda: seconds[0])

    def takes(owner: Any, name: str, cost: float) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def later(*arguments: Any, **options: Any) -> Any:
            seconds[0] += cost
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, later)

    for each in costs:
        takes(*each)
    return seconds
