"""Whole studies at toy length, killed again and again: they end with the numbers of those that were left in peace."""

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
from PIL import Image

from fluxflow_exp.config.override_keys import merged
from tests.conftest import TOY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

BATCH = f"""\
question: Does a smaller batch rebuild better?
base: {json.dumps(merged(["stage=vae", *TOY], ["stage.steps.vae.n_epochs=6", "checkpoint.every_updates=2"]))}
arms:
  large: [stage.steps.vae.batch_size=16]
  small: [stage.steps.vae.batch_size=8]
outcome: [val_psnr, psnr]
seeds: 2
learning_rates: [1e-3, 2e-3]
"""
# The shipped study of docs/studies/bezier.md, at toy length.
BEZIER = [
    "bezier", "tracking=off", "hardware=cpu", "hardware.num_workers=0", "hardware.threads=1", "data.img_size=16",
    "data.data_path=images", "data.captions_file=captions.tsv", "checkpoint.every_updates=2",
    *(f"stage.steps.{step}.{key}" for step in ("vae", "flow") for key in ("n_epochs=2", "batch_size=8")),
    *(f"model.flow_processor.{key}" for key in ("width=32", "depth=1", "heads=2")), "evaluation.every_epochs=1",
    "samples.every_epochs=2", "samples.count=2", "samples.steps=2", "evaluation.steps=2", "seeds=2",
    *(f"arms.{arm}=null" for arm in ("gelu", "relu", "gelu_time", "relu_time", "bezier_half", "silu_half")),
]  # fmt: skip
# The command as it is where there are two GPUs.
TWO_GPUS = (
    "import sys; from fluxflow_exp.study import command, launch; launch.places = lambda *_: ['0', '1']; "
    "sys.exit(command.main())"
)
WORDS = {"batch": ["batch.yaml"], "bezier": BEZIER}
RUNS = {"batch": 8, "bezier": 6}


def start(folder: Path, study: str, *words: str, beside: bool = False) -> subprocess.Popen[str]:
    if not folder.exists():
        (folder / "images").mkdir(parents=True)
        (folder / "batch.yaml").write_text(BATCH)
        colours = random.Random(0)
        names = [f"{number}.png" for number in range(40)]
        for name in names:
            Image.new("RGB", (16, 16), tuple(colours.randbytes(3))).save(folder / "images" / name)
        (folder / "captions.tsv").write_text("".join(f"{name}\tpicture {name}\n" for name in names))
    command = ["-c", TWO_GPUS] if beside else ["-m", "fluxflow_exp.study"]
    return subprocess.Popen(
        [sys.executable, *command, *WORDS[study], *words],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(folder: Path, study: str, *words: str, beside: bool = False) -> tuple[int, str]:
    child = start(folder, study, *words, beside=beside)
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


def trains(folder: Path) -> bool:
    """Whether a run has a checkpoint and is not done."""
    saved = {path.parents[1] for path in folder.glob("outputs/*/*/*/checkpoints/*.pt")}
    return any(not (run / "weights" / "final.safetensors").exists() for run in saved)


def compare(found: Any, wanted: Any) -> None:
    """Equal, but for how the features of judges round, which hangs on a process's threads."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            compare(found[key], value)
    elif isinstance(wanted, list | tuple):
        for one, other in zip(found, wanted, strict=True):
            compare(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-3)
    else:
        assert found == wanted


def numbers(folder: Path, study: str) -> Any:
    found = json.loads((folder / "outputs" / study / "study.json").read_text())
    rates = {arm["name"]: arm["learning_rate"] for arm in found["arms"]}
    return found["outcomes"], found["curves"], rates, found["unfinished"]


@pytest.mark.parametrize("study", ["batch", "bezier"])
def test_killed_at_random_moments_it_ends_with_the_same_numbers(tmp_path: Path, study: str) -> None:
    code, said = finish(tmp_path / "peace", study)
    assert code == 0, said
    moments = random.Random(5)
    for way in ("machine", "asked", "alone"):
        child = start(tmp_path / "killed", study, beside=study == "batch")
        while not trains(tmp_path / "killed"):
            assert child.poll() is None
            time.sleep(moments.uniform(0, 0.2))
        lose(child, way)
    code, said = finish(tmp_path / "killed", study, beside=study == "batch")
    assert code == 0, said
    compare(numbers(tmp_path / "killed", study), numbers(tmp_path / "peace", study))
    records = [json.loads(path.read_text()) for path in (tmp_path / "killed").glob("outputs/*/*/*/run.json")]
    assert len(records) == RUNS[study]
    assert sum(record["restarts"] for record in records) >= 1
    code, said = finish(tmp_path / "killed", study, "--status")
    assert code == 0, said
    assert f"{RUNS[study]} runs: {RUNS[study]} done" in said
