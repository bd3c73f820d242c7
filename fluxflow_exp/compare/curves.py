"""Held-out curves over a budget, laid along one axis and read at equal budget."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fluxflow_exp.compare import flops
from fluxflow_exp.compare.differences import apart
from fluxflow_exp.compare.metrics import evaluated, logged
from fluxflow_exp.compare.runs import Run, listed
from fluxflow_exp.compare.significance import half_width
from fluxflow_exp.errors import UserError
from fluxflow_exp.run.metric_log import Row, read_rows

# Budget → what its unit is called.
BUDGETS = {
    "images": "images", "updates": "updates", "tflop": "TFLOP", "seconds": "s of training", "gpu_hours": "GPU-hours",
    "params": "updates",
}  # fmt: skip
COUNTED = ("images", "updates", "params")  # that all runs of one configuration spend alike, to the last update
TIMED = ("seconds", "gpu_hours")  # what training rows count in `extras.seconds`
PARAMETERS_ALIKE = 0.01  # models within it count as equally large
ROUNDING = 1e-9  # budgets within it, relative, are one: ten digits are shown of them


@dataclass(frozen=True)
class Curve:
    """A metric over a budget; both grow row by row along the run's steps."""

    budget: list[float]
    values: list[float]

    def at(self, budget: float) -> float:
        """Between the rows around `budget`, on the line that joins them."""
        assert self.budget[0] <= budget <= self.budget[-1], "never beyond what was measured"
        return float(np.interp(budget, self.budget, self.values))


@dataclass(frozen=True)
class Band:
    """A group's mean over seeds, and the half of its 95 % interval (None with one seed)."""

    budget: list[float]
    mean: list[float]
    half_width: list[float] | None


def read(run: Run, metric: str, budget: str) -> Curve:
    """The curve of `metric`, steps one after another. UserError: there is none, or a value is not finite."""
    spent, points = 0.0, []
    measured = [] if metric in logged(run) else evaluated(run, metric)
    for step, settings in run.values["stage"]["steps"].items():
        rows = read_rows(run.folder.metrics(step))
        if not rows:
            break
        axis = _axis(run, step, rows, budget, batch_size=settings["batch_size"])
        for row in rows:
            if row["kind"] != "held_out" or metric not in row["metrics"]:
                continue
            value = row["metrics"][metric]
            if value is None:
                raise UserError(f"{run.name}: {metric} is not finite at update {row['global_step']} of step {step}")
            points.append((spent + axis(row["global_step"]), float(value)))
        points += [(spent + axis(each.update), each.value) for each in measured if each.step == step and each.update]
        points = [point for point in points if not math.isnan(point[0])]
        spent += axis(rows[-1]["global_step"])
    if not points:
        raise UserError(f"{run.name} has no row of {metric} yet whose {budget} are known")
    return Curve([x for x, _ in points], [y for _, y in points])


def met(curves: dict[str, Curve]) -> float | None:
    """The largest budget that all runs reached; None: one ended before another was first measured."""
    least = min(curve.budget[-1] for curve in curves.values())
    return least if all(curve.budget[0] <= least for curve in curves.values()) else None


def equal_budget(curves: dict[str, Curve], budget: str, *, at: float | None) -> float:
    """The largest budget that all runs reached, or `at`. UserError: some have no row there."""
    target, end = at, min(curve.budget[-1] for curve in curves.values())
    if target is None:
        target = _largest(curves, budget)
    elif not further(target, end):
        target = min(target, end)  # the end as a message gave it, rounded, is the end
    outside = [
        f"{name} was measured from {_number(curve.budget[0])} to {_number(curve.budget[-1])} {BUDGETS[budget]}, "
        f"and not at {_number(target)}"
        for name, curve in curves.items()
        if not curve.budget[0] <= target <= curve.budget[-1]
    ]
    if outside:
        raise UserError(*outside)
    return target


def _largest(curves: dict[str, Curve], budget: str) -> float:
    """UserError: there is none, or runs should have ended alike and have not."""
    ends = {name: curve.budget[-1] for name, curve in curves.items()}
    least = met(curves)
    if least is None:
        early, late = min(ends, key=lambda name: ends[name]), max(curves, key=lambda name: curves[name].budget[0])
        raise UserError(
            f"there is no budget at which all runs were measured: {early} ended at {_number(ends[early])} "
            f"{BUDGETS[budget]}, and {late} was first measured at {_number(curves[late].budget[0])}. Train again with "
            "evaluation.every_epochs=1 or, where that is so, for more epochs"
        )
    if budget in COUNTED:
        reached: dict[str, list[str]] = {}
        for name, end in ends.items():
            reached.setdefault(_number(end), []).append(name)
        if len(reached) > 1:
            raise UserError(f"{budget} end at {apart(reached)}. --at {_number(least)} compares where all have been")
    return least


def further(end: float, at: float) -> bool:
    """Whether `end` lies beyond `at`, by more than sums of floating-point numbers differ."""
    return end > at and not math.isclose(end, at, rel_tol=ROUNDING)


def band(curves: list[Curve], until: float) -> Band:
    """Mean and interval of `curves` wherever one of them has a row and all have been measured, to `until`."""
    first = max(curve.budget[0] for curve in curves)
    budget = sorted({x for curve in curves for x in curve.budget if first <= x <= until} | {until})
    columns = [[curve.at(x) for curve in curves] for x in budget]
    halves = [half_width(column) for column in columns]
    return Band(
        budget,
        [sum(column) / len(column) for column in columns],
        None if len(curves) < 2 else [half or 0.0 for half in halves],
    )


def check_budget(runs: list[Run], budget: str) -> None:
    """UserError: runs do not record the budget, or their models are not equally large (params)."""
    if budget == "params":
        _check_parameters(runs)
    if budget in TIMED:
        _check_rows(runs, "seconds")
    if budget != "gpu_hours":
        return
    machines = {run.name: (run.record["made_with"] or {}).get("machine", "an unknown machine") for run in runs}
    without = [name for name, machine in machines.items() if "CPU" in machine or "unknown" in machine]
    if without:
        raise UserError(
            f"no GPU-hours are recorded for {listed(without)}: trained on {machines[without[0]]!r}. "
            "Take --budget seconds"
        )


def _check_rows(runs: list[Run], name: str) -> None:
    without = [
        str(run.folder.metrics(step))
        for run in runs
        for step in run.values["stage"]["steps"]
        if any(name not in row["extras"] for row in read_rows(run.folder.metrics(step)) if row["kind"] == "train")
    ]
    if without:
        raise UserError(
            f"{BUDGETS[name]} are not recorded: training rows have no 'extras.{name}' in {listed(without)}. "
            "Choose another --budget"
        )


def _check_parameters(runs: list[Run]) -> None:
    counts = {run.name: _parameters(run) for run in runs}
    missing = [name for name, count in counts.items() if count is None]
    if missing:
        raise UserError(
            f"--budget params counts the shapes in weights/final.safetensors, which is written when a run ends; there "
            f"is none in {listed(missing)}"
        )
    sizes = [count for count in counts.values() if count is not None]
    if max(sizes) > min(sizes) * (1 + PARAMETERS_ALIKE):
        sized = {f"{size:,}": [name for name, count in counts.items() if count == size] for size in sizes}
        raise UserError(f"parameters differ by more than {100 * PARAMETERS_ALIKE:.0f} %: {apart(sized)}")


def _axis(run: Run, step: str, rows: list[Row], budget: str, *, batch_size: int) -> Callable[[int], float]:
    """Update of the step → what it had spent by then."""
    if budget in ("updates", "params"):
        return float
    if budget == "images":
        return lambda update: float(update * batch_size)
    if budget == "tflop":
        done = flops.done(run, step)
        return lambda update: float(done[update])
    seconds = _recorded(rows, "seconds")
    if budget == "seconds":
        return seconds
    hardware = run.values["hardware"]
    gpus = hardware["devices"] * hardware["slurm"]["nodes"]
    return lambda update: seconds(update) * gpus / 3600


def _recorded(rows: list[Row], name: str) -> Callable[[int], float]:
    """Return the count in `extras` of training rows: 0 at first, growing evenly between rows, NaN after the last."""
    train = [row for row in rows if row["kind"] == "train"]
    updates = [0.0, *(float(row["global_step"]) for row in train)]
    counted = [0.0, *(float(row["extras"][name]) for row in train)]
    return lambda update: float(np.interp(update, updates, counted, right=math.nan))


def _parameters(run: Run) -> int | None:
    """Floating-point numbers in the published weights of all parts (the discriminator is not among them)."""
    from safetensors import safe_open

    path = run.folder.weights / "final.safetensors"
    if not path.exists():
        return None
    with safe_open(path, framework="np") as file:
        slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
        return sum(int(np.prod(each.get_shape())) for each in slices if each.get_dtype().startswith(("F", "BF")))


def _number(value: float) -> str:
    return f"{value:.10g}"
