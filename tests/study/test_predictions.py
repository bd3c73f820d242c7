"""Arms are predicted side by side with the numbers of one after the other, and each is kept as soon as it is known."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import cores, memory
from fluxflow_exp.study import arms, cost, predictions
from fluxflow_exp.study.cost import ArmCost
from fluxflow_exp.study.kept import Kept
from fluxflow_exp.study.runs import Run
from tests.conftest import TOY
from tests.study.test_spec import study

THREE = f"""\
question: Does a smaller batch rebuild better?
base: {["stage=vae", *(word for word in TOY if word != "hardware=cpu"), "hardware=h200", "hardware.compile=false"]}
arms: {{large: stage.steps.vae.batch_size=16, small: stage.steps.vae.batch_size=8, least: stage.steps.vae.batch_size=4}}
outcome: val_psnr
seeds: 2
"""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Run]:
    """A study's arms, where three are predicted at a time."""
    monkeypatch.setattr(predictions, "at_once", lambda: 3)
    found = arms.first_runs(study(tmp_path, THREE), {})
    for run in found.values():
        run.values["output_root"] = str(tmp_path)
    return found


def batch_size(values: dict[str, Any]) -> int:
    size: int = values["stage"]["steps"]["vae"]["batch_size"]
    return size


def known(values: dict[str, Any]) -> dict[str, Any]:
    return asdict(ArmCost(0.5, 0.1, batch_size(values), 1.0, 1.0))


def meets(values: dict[str, Any], sender: Connection) -> None:
    """Begin only when all three have."""
    folder = Path(values["output_root"])
    (folder / f"begun {batch_size(values)}").touch()
    while len(list(folder.glob("begun *"))) < 3:
        time.sleep(0.01)
    sender.send(known(values))


def answers_or_waits(values: dict[str, Any], sender: Connection, last: Callable[[], Any]) -> None:
    """The first arm answers, the second one waits for ever, the third one does `last` as soon as both are there."""
    folder = Path(values["output_root"])
    if batch_size(values) == 16:
        sender.send(known(values))
    elif batch_size(values) == 8:
        (folder / "begins to wait").write_text(str(os.getpid()))
        (folder / "begins to wait").rename(folder / "waits")  # which others read as soon as it is there
        time.sleep(600)
    else:
        while not (folder / "plan.json").exists() or not (folder / "waits").exists():
            time.sleep(0.01)
        last()


def is_refused(values: dict[str, Any], sender: Connection) -> None:
    answers_or_waits(values, sender, lambda: sender.send(UserError("no data", "no captions")))


def lacks_a_file(values: dict[str, Any], sender: Connection) -> None:
    answers_or_waits(values, sender, lambda: sender.send(FileNotFoundError(2, "No such file", "images")))


def is_killed(values: dict[str, Any], sender: Connection) -> None:
    answers_or_waits(values, sender, lambda: os.kill(os.getpid(), signal.SIGKILL))


def is_wrong(values: dict[str, Any], sender: Connection) -> None:
    answers_or_waits(values, sender, lambda: 1 / 0)


def names_its_device(values: dict[str, Any], sender: Connection) -> None:
    sender.send({**known(values), "hours": values["hardware"]["device"]})


def test_numbers_are_those_of_one_process(runs: dict[str, Run], tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    two = {arm: runs[arm] for arm in ("large", "least")}
    found = predictions.made(two, kept)
    assert found == {arm: cost.predict(run.values) for arm, run in two.items()}
    assert found["large"].tflop == pytest.approx(found["least"].tflop, rel=0.01)
    assert found["large"].memory_gib > found["least"].memory_gib
    assert predictions.made(two, Kept(tmp_path)) == found


def test_arms_are_predicted_at_a_time_and_each_says_when_it_is_known(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predictions, "_answer", meets)
    found = predictions.made(runs, Kept(tmp_path))
    assert {arm: each.parameters for arm, each in found.items()} == {"large": 16, "small": 8, "least": 4}
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [f"Predicting the cost of {arm} …" for arm in runs]
    assert sorted(line.rpartition(":")[0] for line in said[3:]) == [
        f"The cost of {arm} is predicted" for arm in sorted(runs)
    ]
    assert [line.rpartition(": ")[2] for line in said[3:]] == ["1 of 3", "2 of 3", "3 of 3"]
    predictions.made(runs, Kept(tmp_path))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("way", "kind", "said"),
    [
        (is_refused, UserError, "arm least: no data\narm least: no captions"),
        (lacks_a_file, FileNotFoundError, r"No such file: 'images'"),
        (is_killed, UserError, "arm least: the process that predicts its cost was ended by signal 9, as the kernel"),
        (is_wrong, RuntimeError, "the cost of least was not predicted: its error is said above"),
    ],
)
def test_an_error_ends_all_and_what_is_known_is_kept(
    runs: dict[str, Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: Callable[..., None],
    kind: type[Exception],
    said: str,
) -> None:
    monkeypatch.setattr(predictions, "_answer", way)
    with pytest.raises(kind, match=said):
        predictions.made(runs, Kept(tmp_path))
    assert not Path(f"/proc/{(tmp_path / 'waits').read_text()}").exists()
    kept = Kept(tmp_path)
    assert kept.get("cost large", runs["large"].values)["parameters"] == 16
    assert kept.get("cost least", runs["least"].values) is None


def test_an_interruption_ends_them_at_once(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "_answer", is_refused)

    def interrupted(connections: list[Connection]) -> list[Connection]:
        while not (tmp_path / "waits").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(predictions, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predictions.made(runs, Kept(tmp_path))
    assert not Path(f"/proc/{(tmp_path / 'waits').read_text()}").exists()


def test_updates_that_are_timed_have_the_machine_to_themselves(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "predict", lambda values: ArmCost(float(os.getpid()), 0.1, 1, 1.0, 1.0))
    monkeypatch.setattr(predictions, "_answer", names_its_device)
    monkeypatch.setitem(runs["large"].values["hardware"], "device", "cpu")
    monkeypatch.setitem(runs["small"].values["hardware"], "device", "auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = predictions.made(runs, Kept(tmp_path / "gpu"))
    assert [each.hours for each in found.values()] == [os.getpid(), "cuda", "cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = predictions.made(runs, Kept(tmp_path / "none"))
    assert [each.hours for each in found.values()] == [os.getpid(), os.getpid(), "cuda"]


@pytest.mark.parametrize(("count", "gib", "room"), [(16, 64, 16), (16, 9, 4), (2, 64, 2), (8, 1, 1)])
def test_as_many_at_a_time_as_cores_and_memory_hold(
    monkeypatch: pytest.MonkeyPatch, count: int, gib: int, room: int
) -> None:
    monkeypatch.setattr(cores, "usable", lambda: count)
    monkeypatch.setattr(memory, "usable", lambda: gib * 2**30)
    assert predictions.at_once() == room
