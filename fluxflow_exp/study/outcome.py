"""What the finished runs say: values at the equal budget, differences from the reference, curves."""

from fluxflow_exp.compare import curves as read_curves
from fluxflow_exp.compare.curves import Curve
from fluxflow_exp.compare.runs import Run as Finished
from fluxflow_exp.compare.significance import detectable
from fluxflow_exp.monitor.metrics import higher_is_better
from fluxflow_exp.study.answer import AT_THE_END, Curves, Difference, Line, Outcome
from fluxflow_exp.study.sequential import judge
from fluxflow_exp.study.spec import Spec

Runs = dict[str, dict[int, Finished]]  # arm → seed → a run that is done
AXIS = "images"


def outcome(spec: Spec, metric: str, runs: Runs) -> Outcome:
    """The values of `metric` and the arms' differences from the reference, over seeds that both have."""
    curves = curves_of(metric, runs)
    at = _equal_budget(curves)
    values = {
        arm: {seed: curve.at(at) if at is not None else curve.values[-1] for seed, curve in members.items()}
        for arm, members in curves.items()
    }
    pairs = differences(spec, values)
    smallest = spec.smallest_difference if metric == spec.outcome[0] else None
    judged = judge(pairs, smallest_difference=smallest, sequential=spec.seeds is None)
    count = sum(each.low is not None for each in judged.values())
    made = [
        Difference(
            arm=arm,
            mean=each.difference.mean,
            low=each.low,
            high=each.high,
            seeds=[each.difference.seeds[0]],
            correction=_correction(spec, count),
            confidence=each.difference.confidence,
            detectable=detectable(each.difference) if each.low is not None else None,
            needed=each.needed,
        )
        for arm, each in judged.items()
        if pairs[arm]
    ]
    said = AT_THE_END if at is None else f"{at:,.0f} {AXIS}"
    return Outcome(metric, bool(higher_is_better(metric)), values, made, smallest, said)


def differences(spec: Spec, values: dict[str, dict[int, float]]) -> dict[str, list[float]]:
    """Of every arm but the reference: its values less the reference's, over seeds that both have; there may be none."""
    own = values.get(spec.reference, {})
    pairs = {arm: sorted(set(values.get(arm, {})) & set(own)) for arm in spec.arms if arm != spec.reference}
    return {arm: [values[arm][seed] - own[seed] for seed in seeds] for arm, seeds in pairs.items()}


def curves_of(metric: str, runs: Runs) -> dict[str, dict[int, Curve]]:
    """Arm → seed → the metric over images; arms without a finished run are left out."""
    return {
        arm: {seed: read_curves.read(run, metric, AXIS) for seed, run in members.items()}
        for arm, members in runs.items()
        if members
    }


def drawn(metric: str, runs: Runs) -> Curves | None:
    """The mean curve of each arm in the band of its interval; None: nothing was measured on the way."""
    lines = []
    for arm, members in curves_of(metric, runs).items():
        curves = list(members.values())
        if any(len(curve.budget) < 2 for curve in curves):
            return None
        until = min(curve.budget[-1] for curve in curves)
        if max(curve.budget[0] for curve in curves) > until:
            return None
        band = read_curves.band(curves, until)
        low = high = None
        if band.half_width is not None:
            low = [mean - half for mean, half in zip(band.mean, band.half_width, strict=True)]
            high = [mean + half for mean, half in zip(band.mean, band.half_width, strict=True)]
        lines.append(Line(arm, band.budget, band.mean, low, high))
    return Curves(metric, AXIS, lines) if lines else None


def _equal_budget(curves: dict[str, dict[int, Curve]]) -> float | None:
    """The most images that all runs have seen; None: they ended at different ones, and were not measured there."""
    every = {f"{arm} {seed}": curve for arm, members in curves.items() for seed, curve in members.items()}
    if not every:
        return None
    return read_curves.met(every)


def _correction(spec: Spec, count: int) -> str | None:
    if spec.seeds is None:
        return "group-sequential"
    return f"Holm, {count} pairs" if count > 1 else None
