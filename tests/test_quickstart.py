"""The quickstart at full length: its time, its accuracy, and its bytes after many kills."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.outcomes import assert_same

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
KILLS = 10


def command(output: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "fluxflow_exp",
        "hardware=cpu",
        f"output_root={output}",
        "checkpoint.every_updates=50",
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(command(root), check=True)
    return root / "quickstart"


def test_it_draws_what_held_out_prompts_say_within_330_seconds(undisturbed: Path) -> None:
    summary = json.loads((undisturbed / "summary.json").read_text())
    print(json.dumps(summary, indent=2))
    assert summary["metrics"]["prompt_accuracy"] >= 0.95
    assert summary["wall_seconds"] <= 330
    assert summary["restarts"] == 0


def test_killed_ten_times_it_ends_with_the_same_bytes(undisturbed: Path, tmp_path: Path) -> None:
    rng, kills = random.Random(0), 0
    checkpoints = tmp_path / "quickstart" / "checkpoints"
    while True:
        child = subprocess.Popen(command(tmp_path))
        if kills < KILLS:
            _wait_for_a_moment(child, checkpoints, rng, while_saving=kills % 3 == 2)
            child.send_signal(signal.SIGKILL)
            kills += 1
        code = child.wait()
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert kills == KILLS
    assert_same(tmp_path / "quickstart", undisturbed)


def _wait_for_a_moment(
    child: "subprocess.Popen[bytes]", checkpoints: Path, rng: random.Random, *, while_saving: bool
) -> None:
    """Until some seconds after the first save of this life, or until the middle of a later save."""
    known = set(checkpoints.glob("*.pt"))
    while child.poll() is None and not set(checkpoints.glob("*.pt")) - known:
        time.sleep(0.05)
    end = time.monotonic() + rng.uniform(0.5, 12)
    while child.poll() is None and time.monotonic() < end:
        if while_saving and list(checkpoints.glob("tmp-*")):
            return
        time.sleep(0.001)
