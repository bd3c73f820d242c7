"""A real SLURM for the tests that are marked `slurm`."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.slurm_jobs import MIDDLE, Sweep, undisturbed

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which commands talk to the cluster."""
    root = tmp_path_factory.mktemp("slurm")
    script = ["bash", str(HERE / "slurm_cluster.sh")]
    up = subprocess.run([*script, "up", str(root)], capture_output=True, text=True, timeout=240)
    if up.returncode == 77:
        pytest.skip(up.stderr.strip().splitlines()[-1])
    assert up.returncode == 0, up.stderr
    yield {
        **os.environ,
        "SLURM_CONF": str(root / "slurm.conf"),
        "PYTHONPATH": str(HERE.parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run([*script, "down", str(root)], timeout=120, check=True)


@pytest.fixture
def sweep(cluster: dict[str, str], tmp_path: Path) -> Iterator[Sweep]:
    made = Sweep(tmp_path, cluster)
    yield made
    made.slurm("scancel", f"--user={os.getuid()}")  # what a failed test leaves would be in the way of the next one


@pytest.fixture(scope="session")
def middle(cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return undisturbed(cluster, tmp_path_factory.mktemp("middle"), MIDDLE)
