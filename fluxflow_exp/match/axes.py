"""The cost of a model on each axis that models can be equal on: parameters, work, memory, time."""

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fluxflow_exp.config.compose import typed
from fluxflow_exp.config.schema import RunConfig
from fluxflow_exp.data.build import build_data
from fluxflow_exp.data.protocols import DataSet
from fluxflow_exp.match.widths import Model
from fluxflow_exp.models import weights
from fluxflow_exp.plan import flops, roofline
from fluxflow_exp.plan.dry_run import rehearsal
from fluxflow_exp.step_length import Length, length_of

GIB = 2**30


@dataclass(frozen=True)
class Predicted:
    """An update on the card of `hardware`, as `fluxflow_exp.plan` predicts it."""

    peak_gib: float
    seconds: float | None  # None: the card's rates are not known
    busy: float | None  # seconds of it that the card computes, however long the host takes to launch that


class Subject:
    """One step of a resolved configuration, whose model's widths can be changed."""

    def __init__(self, values: dict[str, Any], step: str) -> None:
        self.values, self.step = values, step
        config = typed(values)
        self.data: DataSet = build_data(config)[step]
        self.length: Length = length_of(config.stage.steps[step], self.data, config, ranks=config.hardware.ranks)

    def with_model(self, model: Model) -> dict[str, Any]:
        """The configuration with another model."""
        return {**self.values, "model": copy.deepcopy(model.nodes)}

    def parameters(self, model: Model) -> dict[str, int]:
        """By matched part."""
        return {part: sum(p.numel() for p in weights.outline(model.nodes[part]).parameters()) for part in model.parts}

    def tflop(self, model: Model) -> float:
        """Count the TFLOP of an update, averaged over the step."""
        return statistics.fmean(flops.tflop(self._config(model), self.step, self.length, self.data))

    def predicted(self, model: Model) -> Predicted:
        config = self._config(model)
        hardware, length = config.hardware, self.length
        share = replace(length, batch_size=length.batch_size // hardware.ranks)
        with rehearsal(config, self.step, share, self.data) as tried:
            kinds = tried.kinds()
            costs = {kind: tried.cost(kind, length.micro_batch) for kind in kinds}
        shares = {kind: count / length.updates for kind, count in kinds.items()}

        def average(time: Callable[..., float | None]) -> float | None:
            times = {kind: time(each.operations, hardware) for kind, each in costs.items()}
            known = [shares[kind] * taken for kind, taken in times.items() if taken is not None]
            return sum(known) if known else None

        peak = max(each.peak for each in costs.values()) / GIB
        return Predicted(peak, average(roofline.seconds), average(roofline.busy))

    def _config(self, model: Model) -> RunConfig:
        return typed(self.with_model(model))


@dataclass(frozen=True)
class Figures:
    """All axes of one model."""

    parts: dict[str, int]
    tflop: float  # an update
    tflop_per_image: float
    peak_gib: float
    seconds: float | None  # an update, predicted
    busy: float | None

    @property
    def parameters(self) -> int:
        return sum(self.parts.values())

    def on(self, axis: str) -> float | None:
        """Return the value that the search equates; None: the card's rates are not known (time)."""
        return {"params": self.parameters, "flops": self.tflop, "memory": self.peak_gib, "time": self.busy}[axis]


def figures(subject: Subject, model: Model) -> Figures:
    tflop, predicted = subject.tflop(model), subject.predicted(model)
    return Figures(
        subject.parameters(model),
        tflop,
        tflop / subject.length.batch_size,
        predicted.peak_gib,
        predicted.seconds,
        predicted.busy,
    )


def cost_of(subject: Subject, axis: str) -> Callable[[Model], float]:
    """Model → its cost on one axis, as `Figures.on` gives it, without counting the others."""

    def busy(model: Model) -> float:
        found = subject.predicted(model).busy
        assert found is not None, "the reference had one"
        return found

    costs: dict[str, Callable[[Model], float]] = {
        "params": lambda model: float(sum(subject.parameters(model).values())),
        "flops": subject.tflop,
        "memory": lambda model: subject.predicted(model).peak_gib,
        "time": busy,
    }
    return costs[axis]
