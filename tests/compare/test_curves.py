"""Held-out values are read at equal budget, and nothing that runs do not record is made up."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from fluxflow_exp.compare import command as compare
from fluxflow_exp.compare import curves as compare_curves
from fluxflow_exp.compare import runs
from fluxflow_exp.compare.curves import BUDGETS, Curve, equal_budget
from fluxflow_exp.errors import UserError
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import MetricLog
from tests.helpers.studies import BATCH, GPU, Make, command, study


def test_seconds_are_compared_where_the_slowest_has_been(make: Make) -> None:
    # Bezier ends after 30 · 1 s, SiLU after 30 · 2 s: at 30 s SiLU stands in the middle of its rows at 20 and 40 s.
    make("bezier", 0, [10.0, 20.0, 30.0], seconds=1.0)
    path = make("silu", 0, [10.0, 20.0, 30.0], seconds=2.0)
    assert compare.main(command(path.parent, "--budget", "seconds")) == 0
    facts = json.loads((path.parent / "comparison" / "comparison.json").read_text())
    assert facts["budget"] == {"kind": "seconds", "unit": "s of training", "at": 30.0}
    assert [group["mean"] for group in facts["groups"]] == pytest.approx([30.0, 15.0])
    assert facts["groups"][1]["band"]["budget"] == [20.0, 30.0]


@pytest.mark.parametrize(("budget", "ends"), [("updates", (30, 40)), ("images", (240, 320)), ("seconds", (60, 80))])
def test_runs_that_were_never_measured_at_one_budget_are_told_so(
    make: Make, capsys: pytest.CaptureFixture[str], budget: str, ends: tuple[int, int]
) -> None:
    early = make("bezier", 0, [1.0, 2.0, 3.0])
    late = make("silu", 0, [1.0, 2.0, 3.0], updates=(40, 50, 60))
    assert compare.main(command(early.parent, "--budget", budget)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{early} ended at {ends[0]} {BUDGETS[budget]}, and {late} was first measured at {ends[1]}" in said
    assert "--at" not in said  # there is no budget to name
    assert "evaluation.every_epochs=1 or, where that is so, for more epochs" in said


def test_the_end_that_a_message_gives_rounded_is_the_end(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("bezier", 0, [1.0, 2.0, 3.0], seconds=1 / 3 - 1e-13)  # ends below the 10 s that a message can say
    path = make("silu", 0, [1.0, 2.0, 3.0], seconds=0.5, finished=False)
    assert compare.main(command(path.parent, "--budget", "seconds")) == 2
    assert "; --at 10 compares" in capsys.readouterr().err
    assert compare.main(command(path.parent, "--budget", "seconds", "--at", "10")) == 0
    assert compare.main(command(path.parent, "--budget", "seconds", "--at", "10.001")) == 2


@pytest.mark.parametrize(("seconds", "early"), [(2.0 + 1e-14, False), (2.5, True)])
def test_being_read_before_the_end_is_said_where_it_is_so(
    make: Make, capsys: pytest.CaptureFixture[str], seconds: float, early: bool
) -> None:
    make("bezier", 0, [1.0, 2.0, 3.0], seconds=2.0)
    path = make("silu", 0, [1.0, 2.0, 3.0], seconds=seconds)
    assert compare.main(command(path.parent, "--budget", "seconds")) == 0
    assert ("are read before their end" in capsys.readouterr().out) == early


@pytest.mark.parametrize(
    ("metric", "flow", "answer"),
    [
        ("fd@4", False, "fd is of samples: it takes runs with a flow step, each measured first: "),
        ("fd@4", True, "First measure it: python -m fluxflow_exp.evaluate RUN --metrics fd --guidance 4. There are: "),
        ("flow", False, "flow is of a flow transformer: it takes runs with a flow step"),
        ("rfd", False, "First measure it: python -m fluxflow_exp.evaluate RUN --metrics rfd. There are: val_psnr"),
    ],
)
def test_a_metric_that_evaluate_measures_is_asked_for_there(
    make: Make, capsys: pytest.CaptureFixture[str], metric: str, flow: bool, answer: str
) -> None:
    trained = {"stage.steps.vae.optimizers": {"flow": {"lr": 1e-3}}} if flow else {}
    make("bezier", 0, [1.0, 2.0, 3.0], config=trained)
    path = make("silu", 0, [1.0, 2.0, 3.0], config=trained)
    assert compare.main(command(path.parent, metric=metric)) == 2
    said = capsys.readouterr().err
    assert answer in said
    assert "did you mean" not in said


def test_an_unfinished_run_that_met_no_other_gets_no_budget_proposed(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make("bezier", 0, [1.0, 2.0, 3.0], updates=(40, 50, 60))
    path = make("silu", 0, [1.0, 2.0, 3.0], finished=False)
    assert compare.main(command(path.parent)) == 2
    said = capsys.readouterr().err
    assert "is not finished" in said
    assert "--at" not in said


def test_steps_lie_one_after_another(make: Make) -> None:
    steps = {"vae": {"batch_size": BATCH, "data": None}, "gan": {"batch_size": 2 * BATCH, "data": None}}
    path = make("bezier", 0, [1.0, 2.0, 3.0], config={"stage.steps": steps})
    log = MetricLog(RunFolder(path).metrics("gan"))
    log.write("train", update=5, epoch=1, batch=5, metrics={}, extras={"seconds": 50.0})
    log.write("held_out", update=5, epoch=1, batch=5, metrics={"val_psnr": 4.0})
    (run,) = runs.find([path])
    assert compare_curves.read(run, "val_psnr", "images").budget == [80, 160, 240, 320]
    assert compare_curves.read(run, "val_psnr", "updates").budget == [10, 20, 30, 35]
    assert compare_curves.read(run, "val_psnr", "seconds").budget == [20, 40, 60, 110]


def test_a_held_out_row_between_training_rows_has_the_seconds_between_theirs(make: Make) -> None:
    path = make("bezier", 0, [1.0, 2.0, 3.0], finished=False)
    log = MetricLog(RunFolder(path).metrics("vae"))
    log.write("held_out", update=35, epoch=1, batch=5, metrics={"val_psnr": 4.0})
    (run,) = runs.find([path])
    # After the last training row nobody knows the seconds: the row at 35 is left out until there is one.
    assert compare_curves.read(run, "val_psnr", "seconds").budget == [20, 40, 60]
    log.write("train", update=40, epoch=1, batch=5, metrics={}, extras={"seconds": 100.0})
    assert compare_curves.read(run, "val_psnr", "seconds").budget == [20, 40, 60, 80]


def test_a_run_that_has_only_begun_is_said(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("bezier", 0, [1.0, 2.0, 3.0])
    path = make("silu", 0, [], updates=(), finished=False)
    MetricLog(RunFolder(path).metrics("vae")).write("held_out", update=5, epoch=1, batch=5, metrics={"val_psnr": 4.0})
    assert compare.main(command(path.parent, "--budget", "seconds", "--at", "5")) == 2
    assert f"{path} has no row of val_psnr yet whose seconds are known" in capsys.readouterr().err


def test_a_run_without_the_metric_is_said(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("bezier", 0, [1.0, 2.0, 3.0])
    other = make("silu", 0, [1.0, 2.0, 3.0], metric="val_l1")
    waiting = make("silu", 1, [], updates=(), finished=False)
    assert compare.main(command(other.parent)) == 2
    said = capsys.readouterr().err
    assert f"{other} has no row of it; its held-out metrics: val_l1" in said
    assert f"{waiting} has no row of it, and is not finished; its held-out metrics: none yet" in said


def test_nothing_is_read_beyond_what_was_measured() -> None:
    curves = {"a": Curve([10.0, 20.0], [1.0, 2.0]), "b": Curve([30.0], [1.0])}
    with pytest.raises(UserError, match=r"b was measured from 30 to 30 s of training, and not at 20"):
        equal_budget(curves, "seconds", at=20.0)
    with pytest.raises(UserError, match=r"a ended at 20 s of training, and b was first measured at 30"):
        equal_budget(curves, "seconds", at=None)
    with pytest.raises(UserError, match=r"a was measured from 10 to 20 s of training, and not at 30"):
        equal_budget(curves, "seconds", at=30.0)
    assert equal_budget({"a": curves["a"]}, "seconds", at=12.0) == 12.0


def test_a_value_that_is_not_finite_is_not_passed_over(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("bezier", 0, [1.0, 2.0, 3.0])
    path = make("silu", 0, [1.0, None, 3.0])
    assert compare.main(command(path.parent)) == 2
    assert f"{path}: val_psnr is not finite at update 20 of step vae" in capsys.readouterr().err


def test_tflop_cannot_be_counted_without_a_configuration(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    root = study(make, [20.5], [20.0])  # runs of a model that is none
    assert compare.main(command(root, "--budget", "tflop")) == 2
    assert f"{root / 'bezier-0'}: TFLOP cannot be counted from its configuration" in capsys.readouterr().err


def test_gpu_hours_are_of_gpus(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    root = study(make, [20.5], [20.0])
    assert compare.main(command(root, "--budget", "gpu_hours")) == 2
    assert f"recorded for {root / 'bezier-0'}, {root / 'silu-0'}: trained on 'CPU, 1" in capsys.readouterr().err
    on_gpu = {"made_with": {"machine": GPU, "torch": "2.11"}, "restarts": 1}
    root = study(make, [20.5], [20.0], record=on_gpu, seconds=60.0)
    assert compare.main(command(root, "--budget", "gpu_hours")) == 0
    said = capsys.readouterr().out
    assert "val_psnr at 1 GPU-hours" in said  # 30 updates of a minute on two GPUs
    assert "went on after interruptions" in said


def test_parameters_are_counted_in_the_weights_and_must_be_alike(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    root = study(make, [20.5], [20.0])
    assert compare.main(command(root, "--budget", "params")) == 2
    assert f"there is none in {root / 'bezier-0'}, {root / 'silu-0'}" in capsys.readouterr().err
    for run, width in (("bezier-0", 1000), ("silu-0", 1020)):
        weights = {"expander.w": np.zeros(width, np.float32), "expander.steps": np.zeros(500, np.int64)}
        save_file(weights, root / run / "weights" / "final.safetensors")
    assert compare.main(command(root, "--budget", "params")) == 2
    assert f"differ by more than 1 %: 1,000 in {root / 'bezier-0'}; 1,020 in" in capsys.readouterr().err
    save_file({"expander.w": np.zeros(1005, np.float32)}, root / "silu-0" / "weights" / "final.safetensors")
    assert compare.main(command(root, "--budget", "params")) == 0
    assert "val_psnr at 30 updates, parameters alike" in capsys.readouterr().out
