"""What a study will cost, in runs, hours of devices and disk, and what it has cost so far."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from fluxflow_exp.compare import significance
from fluxflow_exp.config.bounds import PositiveInt
from fluxflow_exp.errors import UserError
from fluxflow_exp.study import launch
from fluxflow_exp.study.arms import in_rows
from fluxflow_exp.study.runs import Run
from fluxflow_exp.study.spec import Spec

GPU_HOURS = "GPU hours"
BESIDE_GIB = 2.6  # of each process on a GPU beside the predicted peak: four of compact_f8 held 15.7 GiB each, for 13.1


@dataclass(frozen=True)
class ArmCost:
    """One run of an arm, as it is predicted."""

    hours: float | None  # of all its devices together; None: the card's facts do not tell
    disk_gib: float
    parameters: int  # that are trained
    tflop: float
    memory_gib: float


def predict(values: dict[str, Any]) -> ArmCost:
    """Rehearse the steps of a run that is configured by `values`: ten seconds to two minutes.

    UserError: its data cannot be opened.
    """
    from fluxflow_exp.plan import command as plan  # torch's compiler

    with contextlib.redirect_stdout(io.StringIO()):
        found = plan.predict(values, diverging=True)  # which its run says, as an answer
    total = found["total"]
    hardware = values["hardware"]
    ranks = hardware["devices"] * hardware["slurm"]["nodes"]
    last: dict[str, int] = {}
    for step in found["steps"]:
        last |= step["parameters"]
    return ArmCost(
        None if total["hours"] is None else total["hours"] * ranks,
        total["disk_gib"],
        sum(last.values()),
        1e3 * total["pflop"],
        total["peak_gib"],
    )


def spent(spec: Spec, runs: Sequence[Run]) -> dict[Run, float]:
    """Hours of devices that each of `runs`, which are all, has taken so far; of those that they shared, its part."""
    records = {run: run.folder.read_record() for run in dict.fromkeys(runs) if run.folder.exists()}
    if spec.side_by_side == 1:
        seconds = {run: float(record["wall_seconds"]) for run, record in records.items()}
    else:
        apart = len(launch.places(spec, list(records))) // spec.side_by_side
        seconds = parts({run: _lives(record) for run, record in records.items()}, apart=apart)
    return {run: seconds.get(run, 0.0) * _devices(run) / 3600 for run in runs}


def parts(lives: dict[Run, list[tuple[float, float]]], *, apart: int) -> dict[Run, float]:
    """Seconds of each run's lives (begin, end); while more than `apart` lived, they shared what so many have."""
    moments = sorted({moment for spans in lives.values() for span in spans for moment in span})
    found = dict.fromkeys(lives, 0.0)
    for begin, end in pairwise(moments):
        there = [run for run, spans in lives.items() if any(first <= begin and end <= last for first, last in spans)]
        for run in there:
            found[run] += (end - begin) * min(1.0, apart / len(there))
    return found


def _lives(record: dict[str, Any]) -> list[tuple[float, float]]:
    """When a run was alive, in seconds: of each of its starts."""
    starts = record.get("starts", [])
    begins = [datetime.fromisoformat(start["time"]).timestamp() for start in starts]
    return [(begin, begin + start["seconds"]) for begin, start in zip(begins, starts, strict=True)]


def _devices(run: Run) -> int:
    hardware = run.values["hardware"]
    return int(hardware["devices"] * hardware["slurm"]["nodes"])


def said(spec: Spec, costs: dict[str, ArmCost], counts: dict[str, int], unit: str) -> list[str]:
    """The cost of so many runs of each arm, in words; `unit` of the hours."""
    runs = sum(counts.values())
    hours = total_hours(costs, counts)
    disk = sum(costs[arm].disk_gib * count for arm, count in counts.items())
    amount = "time not predicted" if hours is None else f"about {shown_hours(hours, unit)}"
    begin = "at first, " if spec.seeds is None else ""
    lines = [f"Cost: {begin}{runs} runs, {amount}, {disk:.2f} GiB of disk"]
    for arm, each in costs.items():
        time = "time not predicted" if each.hours is None else f"{shown_hours(each.hours, unit)} a run"
        lines.append(
            f"  {arm}: {counts[arm]} run{'s' if counts[arm] > 1 else ''}, {time}, "
            f"{each.parameters / 1e6:.2f} M parameters, {each.tflop:.3g} TFLOP a run"
        )
    afterwards = [metric for metric in spec.outcome if not in_rows(metric)]
    measuring = f", and measuring {', '.join(afterwards)} after it" if afterwards else ""
    lines.append(f"  not counted: start, evaluation, pictures and saves of each run{measuring}")
    if spec.seeds is not None and len(spec.seeds) == 1:
        lines.append("Note: with one seed a difference may be chance, and nothing is judged: seeds: 3 or more does")
    elif spec.seeds is not None:
        lines.append(power(len(spec.seeds), len(spec.arms) - 1))
    return lines


def power(seeds: PositiveInt, pairs: PositiveInt) -> str:
    """What difference so many seeds show, at least 2, of `pairs` that are judged together, and what more would."""
    each = [seeds, *[more for more in (3, 5, 8, 12) if more > seeds][:2]]
    level = (1 - significance.CONFIDENCE) / pairs  # by which the first of them is judged

    def shown(count: int) -> str:
        spread_one = significance.Difference(0.0, count**-0.5, (count, count), True, 1.0, count - 1.0, 1.0, 1 - level)
        return f"{significance.detectable(spread_one):.2g}"

    together = f" ({pairs} arms are judged together)" if pairs > 1 else ""
    more = "".join(f"; {count} seeds, of {shown(count)} times" for count in each[1:])
    return (
        f"Power: {seeds} seeds show a difference of {shown(seeds)} times its spread over seeds in four of five "
        f"tries{together}{more}"
    )


def check_runs(spec: Spec, counts: dict[str, int]) -> None:
    """UserError: more runs are asked for than the study's budget has, which is known before any is predicted."""
    runs = sum(counts.values())
    if spec.runs is not None and runs > spec.runs:
        fewer = (
            f"auto begins with {runs // len(counts)} an arm" if spec.seeds is None else "or take fewer seeds or arms"
        )
        raise UserError(f"budget.runs={spec.runs}, and {runs} runs are asked for: raise it, {fewer}")


def check_budget(spec: Spec, costs: dict[str, ArmCost], counts: dict[str, int], unit: str) -> None:
    """UserError: what is asked for does not fit the hours of the study's budget."""
    runs, hours = sum(counts.values()), total_hours(costs, counts)
    problems = []
    if spec.gpu_hours is not None and hours is not None and hours > spec.gpu_hours:
        problems.append(
            f"budget.gpu_hours={spec.gpu_hours:g}, and {runs} runs take about {shown_hours(hours, unit)}: raise it, or "
            "take fewer seeds, shorter runs or fewer arms"
        )
    if spec.gpu_hours is not None and hours is None and spec.seeds is not None:
        problems.append(
            "budget.gpu_hours cannot be held: how long a run takes is not predicted. Choose a card (hardware=h200), "
            "give runs minutes=…, or take budget.runs"
        )
    if problems:
        raise UserError(*problems)


def check_memory(spec: Spec, costs: dict[str, ArmCost], values: dict[str, Any], unit: str) -> None:
    """UserError: runs that are to share a GPU, configured by `values`, do not fit into it together."""
    there = values["hardware"].get("memory_gib")
    arm = max(costs, key=lambda arm: costs[arm].memory_gib)
    each = costs[arm].memory_gib + BESIDE_GIB
    if unit == GPU_HOURS and there and spec.side_by_side > 1 and spec.side_by_side * each > there:
        raise UserError(
            f"side_by_side={spec.side_by_side}: a run of {arm} takes {each:.1f} GiB of a GPU with {there:g}: at most "
            f"{max(int(there // each), 1)} fit"
        )


def total_hours(costs: dict[str, ArmCost], counts: dict[str, int]) -> float | None:
    each = [costs[arm].hours for arm in counts]
    known = [hours * count for hours, count in zip(each, counts.values(), strict=True) if hours is not None]
    return sum(known) if len(known) == len(each) else None


def unit_of(values: dict[str, Any]) -> str:
    """GPU hours, or hours of a machine without one."""
    from fluxflow_exp.machine.hardware import trains_on_cpu  # torch

    return "hours" if trains_on_cpu(values["hardware"]["device"]) else GPU_HOURS


def shown_hours(hours: float, unit: str) -> str:
    if unit == GPU_HOURS:
        return f"{hours:.1f} {unit}" if hours >= 10 else f"{hours:.2g} {unit}"
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"
