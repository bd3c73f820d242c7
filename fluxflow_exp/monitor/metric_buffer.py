"""Losses and gradient norms of updates, on the device until somebody reads them: reading makes the host wait."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fluxflow_exp.losses.terms import Terms
from fluxflow_exp.monitor.finite import Place, check_terms, not_finite

Gather = Callable[[list[str]], list[str]]


@dataclass
class PhaseNumbers:
    """The numbers of one phase of an update that are logged."""

    where: Place
    losses: list[str]
    norms: list[str]
    values: Tensor  # (losses + norms,), of all ranks, on the device
    terms: Terms  # this rank's, sample by sample
    ids: list[str]  # of this rank's samples
    scale: float | None = None  # the loss scale, if there is one: overflows are expected while it can be halved
    read: list[float] | None = None

    def metrics(self, gather: Gather) -> dict[str, float]:
        """The numbers by name, but for norms that overflowed under a loss scale. NonFiniteError."""
        if self.read is None:
            self.read = self.values.tolist()
        means = dict(zip(self.losses, self.read, strict=False))
        check_terms(means, self.terms, self.ids, where=self.where, gather=gather)
        norms = dict(zip(self.norms, self.read[len(self.losses) :], strict=True))
        overflow = [name for name, value in norms.items() if not math.isfinite(value)]
        if overflow and (self.scale is None or self.scale < 1):
            raise not_finite("gradient", overflow[0], gather(self.ids), where=self.where)
        return means | {name: value for name, value in norms.items() if name not in overflow}


class MetricBuffer:
    """The numbers of the updates since they were last taken."""

    def __init__(self, device: torch.device, gather: Gather) -> None:
        self.gather = gather
        self.updates: list[list[PhaseNumbers]] = []
        self.bad = torch.zeros((), device=device)  # 1 from the first number on that is not finite

    def begin_update(self) -> None:
        self.updates.append([])

    def add(self, numbers: PhaseNumbers) -> None:
        self.updates[-1].append(numbers)
        self.bad = torch.maximum(self.bad, (~numbers.values.isfinite().all()).float())

    def take(self) -> list[dict[str, float]]:
        """The metrics of each update, in order. NonFiniteError: the first that is not finite."""
        phases = [phase for update in self.updates for phase in update if phase.read is None]
        if phases:
            numbers = torch.cat([phase.values for phase in phases]).tolist()  # the host waits once
            for phase in phases:
                phase.read, numbers = numbers[: len(phase.values)], numbers[len(phase.values) :]
        found = []
        for update in self.updates:
            metrics: dict[str, float] = {}
            for phase in update:
                metrics |= phase.metrics(self.gather)
            found.append(metrics)
        self.updates = []
        return found
