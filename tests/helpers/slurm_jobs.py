"""Jobs on the real SLURM that tests/sweep/conftest.py starts."""

import json
import subprocess
import sys
import time
from pathlib import Path

from fluxflow_exp.run import diff
from tests.conftest import TOY

COMMON = ["stage=vae", *TOY, "stage.steps.vae.batch_size=8", "hydra/launcher=slurm"]
RARELY = ["evaluation.every_epochs=100000", "samples.every_epochs=null", "log_every=5"]
PLANTED = ["data._target_=tests.helpers.planted.Planted"]


PAUSE = [*PLANTED, "+data.plant=pause", *RARELY]  # an update takes 0.4 s
LONG = [*PAUSE, "stage.steps.vae.n_epochs=24"]
MIDDLE = [*PAUSE, "stage.steps.vae.n_epochs=8"]


class Sweep:
    """The command in a folder of its own, and what SLURM says of its jobs."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "fluxflow_exp", "-m", *COMMON, *overrides]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def finish(self, *overrides: str, timeout: float = 240) -> tuple[int, str]:
        """Exit code, and what was said."""
        child = self.start(*overrides)
        said = child.communicate(timeout=timeout)[0]
        return child.returncode, said

    def slurm(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    def state(self, job: str) -> list[str]:
        """SLURM's word for the job, and its exit code."""
        facts = dict(word.split("=", 1) for word in self.slurm("scontrol", "show", "job", job).split() if "=" in word)
        return [facts["JobState"], facts["ExitCode"]]

    def run(self, pattern: str = "*") -> Path:
        (found,) = self.folder.glob(f"outputs/*/{pattern}/run.json")
        return found.parent

    def wait_until_it_trains(self, child: subprocess.Popen[str], times: int = 1) -> str:
        """The job's number, once it has started `times` times and trained for a while."""
        until = time.monotonic() + 120
        while time.monotonic() < until:
            logs = list(self.folder.glob("outputs/*/*/log.txt"))
            starts = f"\n{logs[0].read_text()}".split("\n--- ") if logs else []
            if len(starts) > times and starts[times].count("Batch") >= 3:
                return str(json.loads((logs[0].parent / "submitted.json").read_text())["job"])
            assert child.poll() is None, child.communicate()[0]
            time.sleep(0.2)
        raise AssertionError("no job trains")


def undisturbed(cluster: dict[str, str], folder: Path, overrides: list[str]) -> Path:
    """The run folder of a run in one piece, without SLURM."""
    local = [o for o in COMMON if not o.startswith("hydra/")]
    command = [sys.executable, "-m", "fluxflow_exp", *local, *overrides, f"output_root={folder}"]
    subprocess.run(command, cwd=folder, env=cluster, check=True, capture_output=True, timeout=240)
    return folder / "vae"


def assert_bit_identical(run: Path, undisturbed: Path) -> None:
    differing, counts = diff.differences(run, undisturbed)
    assert differing == []
    assert counts["tensors"] > 50
    assert counts["rows"] >= 8
