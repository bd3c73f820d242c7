"""The guidance that a run's own evaluation judges its samples at, for hints to whoever draws more of them."""

from typing import Any, NamedTuple

from fluxflow_exp.config.schema import Evaluation


class Guidance(NamedTuple):
    scale: float  # 1: none
    interval: tuple[float, float] | None  # times that are guided, 1 is noise; None: all


def guidance(values: dict[str, Any]) -> Guidance:
    """Of a frozen configuration; what an older one lacks, or all of it with {}, is the default."""
    evaluation = values.get("evaluation", {})
    scale = float(evaluation.get("guidance_scale", Evaluation.guidance_scale))
    low, high = evaluation.get("guidance_interval") or (0.0, 1.0)
    return Guidance(scale, None if (low, high) == (0, 1) or scale == 1 else (float(low), float(high)))
