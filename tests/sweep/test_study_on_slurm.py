"""A study on a real SLURM: a job and the launcher are killed, and the same command ends with the same numbers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp.config.override_keys import merged
from tests.conftest import TOY
from tests.helpers.slurm_jobs import PAUSE, Sweep

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

STUDY = f"""\
question: Does a smaller batch rebuild better?
base: {json.dumps(merged(["stage=vae", *TOY], [*PAUSE, "stage.steps.vae.n_epochs=6"]))}
arms:
  large: [stage.steps.vae.batch_size=16]
  small: [stage.steps.vae.batch_size=8]
outcome: val_psnr
seeds: 3
"""


def start(sweep: Sweep, folder: Path, where: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    (folder / "batch.yaml").write_text(STUDY)
    return subprocess.Popen(
        [sys.executable, "-m", "fluxflow_exp.study", "batch.yaml", f"where={where}"],
        cwd=folder, env=sweep.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def training(folder: Path, child: subprocess.Popen[str]) -> list[str]:
    """The numbers of the jobs that have been submitted, once one of each arm trains."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        logs = [path for path in folder.glob("outputs/batch/*/*/log.txt") if path.read_text().count("Batch") >= 3]
        if len({path.parents[1].name for path in logs}) == 2:
            return [str(json.loads((path.parent / "submitted.json").read_text())["job"]) for path in logs]
        assert child.poll() is None, child.communicate()[0]
        time.sleep(0.2)
    raise AssertionError("no job trains")


def outcomes(folder: Path) -> Any:
    found = json.loads((folder / "outputs/batch/study.json").read_text())
    assert found["unfinished"] is None
    return found["outcomes"], found["curves"]


def test_two_arms_of_three_seeds_with_a_job_and_the_launcher_killed(sweep: Sweep, tmp_path: Path) -> None:
    child = start(sweep, tmp_path / "killed", "slurm")
    sweep.slurm("scancel", training(tmp_path / "killed", child)[0])
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    again = start(sweep, tmp_path / "killed", "slurm")
    said = again.communicate(timeout=600)[0]
    assert again.returncode == 0, said
    records = [json.loads(path.read_text()) for path in (tmp_path / "killed").glob("outputs/batch/*/*/run.json")]
    assert len(records) == 6
    assert sum(record["restarts"] for record in records) >= 1
    peace = start(sweep, tmp_path / "peace", "here")
    said = peace.communicate(timeout=600)[0]
    assert peace.returncode == 0, said
    assert outcomes(tmp_path / "killed") == outcomes(tmp_path / "peace")
