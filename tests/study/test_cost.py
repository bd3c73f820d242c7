"""What a study will cost, in words."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fluxflow_exp.errors import UserError
from fluxflow_exp.study import cost
from fluxflow_exp.study.cost import ArmCost, power, said
from fluxflow_exp.study.course import Course
from tests.study.test_spec import FIVE, study


def test_one_seed_is_said_to_judge_nothing(tmp_path: Path) -> None:
    costs = {arm: ArmCost(0.5, 0.1, 1_000_000, 0.2, 1.0) for arm in ("large", "small")}
    lines = said(study(tmp_path, FIVE, "seeds=1"), costs, dict.fromkeys(costs, 1), "hours")
    assert lines[0] == "Cost: 2 runs, about 1.0 h, 0.20 GiB of disk"
    assert lines[1] == "  large: 1 run, 30 min a run, 1.00 M parameters, 0.2 TFLOP a run"
    assert "with one seed a difference may be chance" in lines[-1]
    two = said(study(tmp_path, FIVE), costs, dict.fromkeys(costs, 2), "hours")
    assert two[3:] == ["  not counted: start, evaluation, pictures and saves of each run", power(2, 1)]
    later = said(study(tmp_path, FIVE, "outcome=[val_psnr,psnr,fd@3]"), costs, dict.fromkeys(costs, 2), "hours")
    assert later[-2] == (
        "  not counted: start, evaluation, pictures and saves of each run, and measuring psnr, fd@3 after it"
    )
    assert two[1].startswith("  large: 2 runs, ")


def test_too_many_runs_are_refused_before_any_is_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = Course(study(tmp_path, FIVE, "budget.runs=3", f"output_root={tmp_path}"), trains=False)
    with pytest.raises(UserError, match=r"budget\.runs=3, and 4 runs are asked for: raise it, or take fewer seeds"):
        few.predict()
    auto = Course(study(tmp_path, FIVE, "budget.runs=3", "seeds=auto", f"output_root={tmp_path}"), trains=False)
    with pytest.raises(UserError, match=r"and 6 runs are asked for: raise it, auto begins with 3 an arm"):
        auto.predict()
    assert "Predicting" not in capsys.readouterr().out


def test_runs_that_share_a_gpu_must_fit_into_it(tmp_path: Path) -> None:
    spec = study(tmp_path, FIVE, "side_by_side=3")
    costs = {arm: ArmCost(0.5, 0.1, 1_000_000, 0.2, gib) for arm, gib in (("large", 24.0), ("small", 8.0))}
    cost.check_memory(spec, costs, {"hardware": {"memory_gib": 80.0}}, cost.GPU_HOURS)
    cost.check_memory(spec, costs, {"hardware": {"memory_gib": 24.0}}, "hours")  # of a CPU: the kernel shares it
    with pytest.raises(UserError, match=r"a run of large takes 26\.6 GiB of a GPU with 60: at most 2 fit"):
        cost.check_memory(spec, costs, {"hardware": {"memory_gib": 60.0}}, cost.GPU_HOURS)


def run_of(*starts: tuple[str, float]) -> Any:
    """A run on the CPU that was alive at these times of a day, for so many seconds."""
    record = {
        "wall_seconds": sum(seconds for _, seconds in starts),
        "starts": [{"time": f"2026-11-30T{time}+00:00", "seconds": seconds} for time, seconds in starts],
    }
    folder = SimpleNamespace(exists=lambda: bool(starts), read_record=lambda: record)
    hardware = {"device": "cpu", "devices": 1, "slurm": {"nodes": 1}}

    class Made(SimpleNamespace):
        __hash__ = object.__hash__

    return Made(folder=folder, values={"hardware": hardware})


def test_of_a_device_that_runs_share_each_takes_its_part_of_the_time_it_lived(tmp_path: Path) -> None:
    # Alone for an hour, then with another; a third one after it, and one that has not begun.
    one, two = run_of(("01:00:00", 3600), ("02:00:00", 3600)), run_of(("02:00:00", 3600))
    three, none = run_of(("04:00:00", 1800)), run_of()
    shared = cost.spent(study(tmp_path, FIVE, "side_by_side=4"), [one, two, three, none])
    assert shared == pytest.approx({one: 1.5, two: 0.5, three: 0.5, none: 0.0})
    alone = cost.spent(study(tmp_path, FIVE), [one, two, three, none])
    assert alone == pytest.approx({one: 2.0, two: 1.0, three: 0.5, none: 0.0})


def test_on_two_devices_two_runs_share_nothing_and_four_do() -> None:
    hour = [(0.0, 3600.0)]
    assert cost.parts({1: hour, 2: hour}, apart=2) == {1: 3600, 2: 3600}  # type: ignore[dict-item]
    assert set(cost.parts(dict.fromkeys(range(4), hour), apart=2).values()) == {1800}  # type: ignore[arg-type]


def test_what_the_seeds_can_show_is_said_before_they_are_paid_for() -> None:
    assert power(3, 1) == (
        "Power: 3 seeds show a difference of 3.3 times its spread over seeds in four of five tries; 5 seeds, of 1.7 "
        "times; 8 seeds, of 1.2 times"
    )
    assert "of 8 times its spread over seeds in four of five tries (6 arms are judged together)" in power(3, 6)
    rng = np.random.default_rng(0)  # the same by trying
    values = rng.normal(1.68, 1, (20000, 5))
    statistic = values.mean(1) / (values.std(1, ddof=1) / 5**0.5)
    assert (np.abs(statistic) > 2.7764).mean() == pytest.approx(0.8, abs=0.01)
