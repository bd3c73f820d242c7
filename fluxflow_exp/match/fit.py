"""Fitting a model's widths to a target, and saying every candidate that is tried."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fluxflow_exp.benchmark.measurement import warm
from fluxflow_exp.match.axes import Subject, cost_of
from fluxflow_exp.match.search import Widths, search
from fluxflow_exp.match.timing import Round, Timing, alternate, rounds
from fluxflow_exp.match.widths import FINER, TIMED, Model

TOLERANCES = {"params": 0.01, "flops": 0.02, "memory": 0.02, "time": 0.02}
DEEPER = (0, -1, 1, -2, 2)  # blocks a stage, in the order in which they are tried
FINE = 0.5  # of the tolerance on time, to which work is equated before that is measured


@dataclass(frozen=True)
class Fitted:
    changes: dict[str, Any]  # key of the configuration → value
    cost: float


def fit(subject: Subject, model: Model, axis: str, target: float) -> Fitted:
    """The widths that bring `model` to `target`; another depth only where widths do not reach it."""
    cost, tolerance = cost_of(subject, axis), TOLERANCES[axis]
    best: Fitted | None = None
    for blocks in DEEPER:
        depth = model.deeper(blocks) if blocks else {}
        if blocks and not depth:
            continue
        if depth:
            print(f"  another depth: {_listed(depth)}", flush=True)
        found = _widths(model, depth, cost, axis, target, tolerance, {}, axis == "time")
        if best is None or abs(found.cost - target) < abs(best.cost - target):
            best = found
        if abs(best.cost / target - 1) <= tolerance:
            break
        print(f"  allowed widths reach {found.cost / target - 1:+.2%} and no nearer", flush=True)
    assert best
    return best


def fit_time(
    reference: Subject, theirs: Model, subject: Subject, mine: Model, *, updates: int
) -> tuple[Fitted, list[Round]]:
    """The widths at which an update takes as long as the reference's on this machine, and the rounds to there."""
    work = reference.tflop(theirs)
    known: dict[Widths, float] = {}
    found: list[Fitted] = []

    def find(aim: float) -> float:
        found.append(_widths(mine, {}, subject.tflop, "flops", aim * work, FINE * TOLERANCES["time"], known, True))
        return found[-1].cost / work

    with warm(reference.with_model(theirs), reference.step, diverging=True) as other:

        def measure() -> Timing:
            with warm(subject.with_model(mine.changed(found[-1].changes)), subject.step, diverging=True) as own:
                taken = alternate(other, own, updates=updates)
            print(f"  {_listed(found[-1].changes)}: measured {taken}", flush=True)
            return taken

        made = rounds(find, measure, tolerance=TOLERANCES["time"])
    return next(each for each in found if each.cost / work == made[-1].work), made


def shown(value: float, axis: str) -> str:
    units = {
        "params": f"{value:,.0f} parameters",
        "flops": f"{value:.6g} TFLOP an update",
        "memory": f"{value:.4g} GiB",
        "time": f"{1000 * value:.4g} ms of computing an update",
    }
    return units[axis]


def _widths(
    model: Model,
    depth: dict[str, Any],
    cost: Callable[[Model], float],
    axis: str,
    target: float,
    tolerance: float,
    known: dict[Widths, float],
    timed: bool = False,
) -> Fitted:
    """`known`: costs of this depth that were found before, kept up."""
    base = model.changed(depth)
    space = base.space(TIMED if timed else FINER)

    def tried(widths: Widths) -> float:
        if widths not in known:
            print(f"  widths {' '.join(map(str, widths))}: ", end="", flush=True)  # the cost may take a minute
            known[widths] = cost(base.changed(base.changes(widths)))
            off = known[widths] / target - 1
            # Without this a reader wonders why one that is near was not taken.
            forbidden = _forbidden(widths)
            why = f"; only to learn the slope: its {forbidden} would differ" if forbidden else ""
            print(f"{shown(known[widths], axis)} ({off:+.2%}{why})", flush=True)
        return known[widths]

    def _forbidden(widths: Widths) -> str:
        """Name what is not as it should be in a model with these widths; empty if nothing is."""
        return "" if space.admits(widths) else "proportions" if space.allowed(widths) else "shortcuts"

    found = search(space, tried, target, tolerance=tolerance)
    return Fitted({**depth, **base.changes(found.widths)}, found.cost)


def _listed(changes: dict[str, Any]) -> str:
    return ", ".join(f"{key.removeprefix('model.')}={value}" for key, value in changes.items()) or "as it is"
