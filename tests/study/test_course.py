"""A whole study at toy length, killed again and again: it ends with the numbers of one that was left in peace."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TOY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STUDY = f"""\
question: Does a smaller batch rebuild better?
base: {json.dumps(["stage=vae", *TOY, "stage.steps.vae.n_epochs=6"])}
arms:
  large: [stage.steps.vae.batch_size=16]
  small: [stage.steps.vae.batch_size=8]
outcome: [val_psnr, psnr]
seeds: 2
learning_rates: [1e-3, 2e-3]
"""


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    (folder / "batch.yaml").write_text(STUDY)
    return subprocess.Popen(
        [sys.executable, "-m", "fluxflow_exp.study", "batch.yaml", *words],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(folder: Path, *words: str) -> tuple[int, str]:
    child = start(folder, *words)
    said = child.communicate(timeout=900)[0]
    return child.returncode, said


def descendants(process: int) -> list[int]:
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [each for child in map(int, children) for each in [child, *descendants(child)]]


def lose(child: subprocess.Popen[str], way: str) -> None:
    """End a study's process: kindly, alone, or with all that it has started, as when the machine is lost."""
    if way == "machine":
        for process in [*descendants(child.pid), child.pid]:
            os.kill(process, signal.SIGKILL)
    else:
        child.send_signal(signal.SIGTERM if way == "asked" else signal.SIGKILL)
    child.communicate(timeout=120)


def numbers(folder: Path) -> Any:
    found = json.loads((folder / "outputs/batch/study.json").read_text())
    rates = {arm["name"]: arm["learning_rate"] for arm in found["arms"]}
    return found["outcomes"], found["curves"], rates, found["unfinished"]


def test_killed_at_random_moments_it_ends_with_the_same_numbers(tmp_path: Path) -> None:
    began = time.monotonic()
    code, said = finish(tmp_path / "peace")
    assert code == 0, said
    undisturbed = time.monotonic() - began
    moments = random.Random(5)
    killed = 0
    for way in ("machine", "asked", "alone"):
        child = start(tmp_path / "killed")
        try:
            child.wait(moments.uniform(0.2, 0.7) * undisturbed)
        except subprocess.TimeoutExpired:
            killed += 1
            lose(child, way)
    code, said = finish(tmp_path / "killed")
    assert code == 0, said
    assert killed
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "peace")
    records = [json.loads(path.read_text()) for path in (tmp_path / "killed").glob("outputs/batch/*/*/run.json")]
    assert len(records) == 8
    assert sum(record["restarts"] for record in records) >= 1
    code, said = finish(tmp_path / "killed", "--status")
    assert code == 0, said
    assert "8 runs: 8 done" in said
