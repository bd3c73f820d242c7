"""Learning-rate schedules over a step's optimizer updates.

Each function takes an optimizer and `updates`, the step's number of optimizer updates (its horizon), and returns a
`Schedule`: `step()` after every update, `observe(metric)` after every evaluation on held-out data (lower is better).
`warmup` is a linear rise from zero: a share of `updates` when below 1, else a number of updates.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, Protocol

from annotated_types import Interval
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from fluxflow_exp.config.bounds import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt


class Schedule(Protocol):
    def step(self) -> None: ...
    def observe(self, metric: float) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Curve:
    """The rate as a function of the update alone: base rate × factor(update)."""

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float]) -> None:
        self._inner = LambdaLR(optimizer, factor)

    def step(self) -> None:
        self._inner.step()

    def observe(self, metric: float) -> None:
        """A curve follows updates, not metrics."""

    def state_dict(self) -> dict[str, Any]:
        return {"update": self._inner.last_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        full = self._inner.state_dict()
        rates = [
            base * factor(state["update"])
            for base, factor in zip(self._inner.base_lrs, self._inner.lr_lambdas, strict=True)
        ]
        full.update(last_epoch=state["update"], _last_lr=rates)
        self._inner.load_state_dict(full)


class Plateau:
    """The rate follows a held-out metric."""

    def __init__(self, inner: ReduceLROnPlateau) -> None:
        self._inner = inner

    def step(self) -> None:
        """A plateau follows metrics, not updates."""

    def observe(self, metric: float) -> None:
        self._inner.step(metric)

    def state_dict(self) -> dict[str, Any]:
        return dict(self._inner.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._inner.load_state_dict(state)


def constant(optimizer: Optimizer, *, updates: int, warmup: NonNegativeFloat = 0) -> Schedule:
    return _warmed(optimizer, updates, warmup, lambda progress: 1.0)


def cosine(
    optimizer: Optimizer, *, updates: int, warmup: NonNegativeFloat = 0, floor: NonNegativeFloat = 0.0
) -> Schedule:
    """Half a cosine from 1 to `floor` (Loshchilov & Hutter 2017, eq. 5, without restarts)."""
    return _warmed(
        optimizer,
        updates,
        warmup,
        lambda progress: floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)),
    )


def linear(
    optimizer: Optimizer, *, updates: int, warmup: NonNegativeFloat = 0, floor: NonNegativeFloat = 0.0
) -> Schedule:
    """A straight fall from 1 to `floor`."""
    return _warmed(optimizer, updates, warmup, lambda progress: 1 + (floor - 1) * progress)


def exponential(
    optimizer: Optimizer,
    *,
    updates: int,
    warmup: NonNegativeFloat = 0,
    floor: PositiveFloat = 0.01,
    gamma: Annotated[float, Interval(gt=0, le=1)] | None = None,
) -> Schedule:
    """floor ** progress: a constant relative fall from 1 to `floor`. With `gamma` it is by that at every update."""
    if gamma is not None:
        return _risen(optimizer, _rise(warmup, updates), lambda since: gamma**since)
    return _warmed(optimizer, updates, warmup, lambda progress: float(floor**progress))


def step(
    optimizer: Optimizer,
    *,
    updates: int,
    warmup: NonNegativeFloat = 0,
    drops: NonNegativeInt = 3,
    factor: PositiveFloat = 0.3,
    every: PositiveInt | None = None,
) -> Schedule:
    """`drops` falls by `factor`, equally spaced over the horizon. With `every` one at each so many updates."""
    if every is not None:
        return _risen(optimizer, _rise(warmup, updates), lambda since: float(factor ** (since // every)))
    return _warmed(
        optimizer,
        updates,
        warmup,
        lambda progress: float(factor ** min(int(progress * (drops + 1)), drops)),
    )


def plateau(
    optimizer: Optimizer,
    *,
    updates: int,
    factor: Fraction = 0.5,
    patience: NonNegativeInt = 3,
    threshold: NonNegativeFloat = 1e-3,
) -> Schedule:
    """Falls by `factor` after `patience` evaluations without a relative improvement of `threshold`."""
    del updates  # a plateau has no horizon
    return Plateau(ReduceLROnPlateau(optimizer, factor=factor, patience=patience, threshold=threshold))


def _warmed(optimizer: Optimizer, updates: int, warmup: float, curve: Callable[[float], float]) -> Schedule:
    rise = _rise(warmup, updates)
    fall = max(updates - rise, 1)
    return _risen(optimizer, rise, lambda since: curve(min(since / fall, 1.0)))


def _risen(optimizer: Optimizer, rise: int, after: Callable[[int], float]) -> Schedule:
    """A rise over `rise` updates, then `after` of the updates since."""
    return Curve(optimizer, lambda update: (update + 1) / rise if update < rise else after(update - rise))


def _rise(warmup: float, updates: int) -> int:
    """Updates of the warm-up."""
    return round(warmup * updates) if warmup < 1 else int(warmup)
