"""The command starts its ranks, passes signals on to them, and takes them with it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import spawn
from tests.conftest import TOY
from tests.helpers.children import CONTEXT

LONG = ["stage=vae", *TOY, "stage.steps.vae.batch_size=8", "stage.steps.vae.n_epochs=5000", "hardware.devices=2"]
LONG += ["log_every=1", "evaluation.every_epochs=null", "samples.every_epochs=null"]


@pytest.fixture
def training(tmp_path: Path) -> subprocess.Popen[str]:
    """The command, with two ranks that train."""
    command = [sys.executable, "-m", "fluxflow_exp", *LONG]
    child = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    for line in child.stdout:
        if "Batch" in line:
            return child
    raise AssertionError(f"it does not train: {child.wait()}")


def test_a_signal_to_the_command_stops_all_ranks_after_a_save(training: subprocess.Popen[str], tmp_path: Path) -> None:
    training.send_signal(signal.SIGTERM)
    said = training.communicate(timeout=60)[0]
    assert training.returncode == 128 + signal.SIGTERM
    assert said.count("Stopped by SIGTERM") == 1
    run = tmp_path / "outputs" / "vae"
    assert json.loads((run / "run.json").read_text())["closed"] == "stopped"
    assert list((run / "checkpoints").glob("*.pt"))


def test_a_rank_that_is_killed_is_named() -> None:
    ranks = [CONTEXT.Process(target=time.sleep, args=(30 * number,), name=f"rank {number}") for number in range(2)]
    for process in ranks:
        process.start()
    os.kill(ranks[1].pid or 0, signal.SIGKILL)
    with pytest.raises(UserError, match=r"^rank 1 was killed \(SIGKILL\), as the kernel does when memory runs out: .*"):
        spawn._until_all_end(ranks)


def test_what_ends_all_ranks_is_said_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fluxflow_exp", *LONG, "data.n_images=7"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    few = "the training set has 7 samples, fewer than a batch of 8; set stage.steps.vae.batch_size lower"
    assert done.stderr == f"error: step vae: {few}\n"


def test_ranks_end_with_the_command(training: subprocess.Popen[str], tmp_path: Path) -> None:
    lock = tmp_path / "outputs" / "vae" / ".lock"
    assert _holders(lock)
    training.kill()
    training.wait()
    until = time.monotonic() + 10
    while _holders(lock) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _holders(lock)


def _holders(path: Path) -> list[str]:
    """Processes that have the file open."""
    wanted = os.path.realpath(path)
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.path.realpath(link) == wanted for link in (process / "fd").iterdir()):
                found.append(process.name)
        except OSError:  # it has ended meanwhile
            continue
    return found
