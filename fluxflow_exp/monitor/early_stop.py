"""When a step ends before its last epoch: a metric below or above a threshold, or no longer improving."""

import math
from collections import deque
from typing import Any

from fluxflow_exp.config.schema import Transition
from fluxflow_exp.monitor.metrics import higher_is_better


class EarlyStop:
    """Follows `rule.metric`. A value that is missing, not finite, or of a skipped update is as if it had not been.

    A logged loss is averaged over its last `rule.smoothing` values and decides nothing before there are so many. A
    held-out metric (`val_…`, `prompt_accuracy…`) is taken as it is. Patience counts epochs, or evaluations.
    """

    def __init__(self, rule: Transition, *, updates_per_epoch: int) -> None:
        self.rule, self.metric, self.updates_per_epoch = rule, rule.metric or "", updates_per_epoch
        self.held_out = self.metric.startswith(("val_", "prompt_accuracy"))
        self.values: deque[float] = deque(maxlen=1 if self.held_out else rule.smoothing)
        self.best: float | None = None
        self.waited = 0

    def after_update(self, metrics: dict[str, float], update: int, *, skipped: bool) -> str | None:
        """The reason to end after `update` (from 1), if there is one."""
        if not self.held_out:
            if not skipped:
                self._take(metrics)
            if update % self.updates_per_epoch == 0:
                self._wait()
            reason = self._reason()
            if reason:
                return reason
        limit = self.rule.max_epochs
        return f"max_epochs={limit}" if limit and update >= limit * self.updates_per_epoch else None

    def after_evaluation(self, metrics: dict[str, float]) -> str | None:
        """The reason to end after held-out `metrics`, if there is one."""
        if not self.held_out or not self._take(metrics):
            return None
        self._wait()
        return self._reason()

    def state_dict(self) -> dict[str, Any]:
        return {"values": list(self.values), "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values.clear()
        self.values.extend(state["values"])
        self.best, self.waited = state["best"], state["waited"]

    def _take(self, metrics: dict[str, float]) -> bool:
        value = metrics.get(self.metric)
        if value is None or not math.isfinite(value):
            return False
        self.values.append(value)
        return True

    def _smoothed(self) -> float | None:
        full = len(self.values) == self.values.maxlen
        return sum(self.values) / len(self.values) if full else None

    def _wait(self) -> None:
        value = self._smoothed()
        if value is None:
            return
        sign = -1 if self.rule.above is not None or (self.held_out and higher_is_better(self.metric)) else 1
        if self.best is None or sign * value < sign * self.best - self.rule.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1

    def _reason(self) -> str | None:
        value, rule = self._smoothed(), self.rule
        if value is None:
            return None
        if rule.below is not None and value < rule.below:
            return f"{rule.metric} {value:.4g} < {rule.below:g}"
        if rule.above is not None and value > rule.above:
            return f"{rule.metric} {value:.4g} > {rule.above:g}"
        if rule.patience is not None and self.waited >= rule.patience:
            unit = "evaluations" if self.held_out else "epochs"
            return f"{rule.metric} no better than {self.best:.4g} for {self.waited} {unit}"
        return None


def describe(rule: Transition) -> str:
    """The rule in words, for the plan."""
    ways = []
    if rule.below is not None:
        ways.append(f"{rule.metric} < {rule.below:g}")
    if rule.above is not None:
        ways.append(f"{rule.metric} > {rule.above:g}")
    if rule.patience is not None:
        ways.append(f"{rule.metric} without progress for {rule.patience}")
    if rule.max_epochs is not None:
        ways.append(f"{rule.max_epochs} epochs are over")
    return " or ".join(ways)
