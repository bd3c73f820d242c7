"""Two nodes of a real SLURM, virtual ones on this machine: they compute what one process does, and the same bytes
after a requeue, the loss of either node, and a task that is killed."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.helpers.outcomes import losses
from tests.helpers.slurm_jobs import PAUSE, Sweep, assert_bit_identical, undisturbed

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(280)]

RUN = [*PAUSE, "log_every=1", "checkpoint.every_updates=3", "stage.steps.vae.n_epochs=8"]
ONE_TASK_EACH = [*RUN, "hardware.slurm.nodes=2"]
TWO_TASKS_EACH = [*ONE_TASK_EACH, "hardware.devices=2"]
TOLERANCE = 1e-5  # the order of sums; measured: 2e-6


@pytest.fixture(scope="module")
def runs(cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of undisturbed runs with one, two and four ranks; made at once."""
    made, folders = [], [tmp_path_factory.mktemp(name) for name in ("alone", "two", "four")]
    for folder, overrides in zip(folders[1:], (ONE_TASK_EACH, TWO_TASKS_EACH), strict=True):
        sweep = Sweep(folder, cluster)
        made.append((sweep, sweep.start(*overrides)))
    found = [undisturbed(cluster, folders[0], RUN)]
    for sweep, child in made:
        said = child.communicate(timeout=200)[0]
        assert child.returncode == 0, said
        found.append(sweep.run())
    return found


def test_two_nodes_agree_with_one_process(runs: list[Path]) -> None:
    alone, *several = [losses(run) for run in runs]
    assert len(alone) > 32
    for run, values, ranks in zip(runs[1:], several, (2, 4), strict=True):
        assert f"{ranks} ranks x 1 x {8 // ranks}" in (run / "log.txt").read_text()
        assert values == pytest.approx(alone, rel=TOLERANCE, abs=TOLERANCE)


def test_a_requeue_lost_nodes_and_a_killed_task_change_no_byte(sweep: Sweep, runs: list[Path]) -> None:
    child = sweep.start(*ONE_TASK_EACH)
    job = sweep.wait_until_it_trains(child)
    sweep.slurm("scontrol", "requeue", job)
    for times, which in ((2, 0), (3, 1)):  # the node that its ranks meet on, then the other one
        sweep.wait_until_it_trains(child, times)
        node = nodes(sweep, job)[which]
        sweep.slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        sweep.slurm("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")  # it would register again
        sweep.wait_until_it_trains(child, times + 1)
        assert node not in nodes(sweep, job)
        sweep.slurm("scontrol", "update", f"nodename={node}", "state=resume")
    killed = time.monotonic()
    os.kill(process_of_task(sweep, job, 1), signal.SIGKILL)
    said = child.communicate(timeout=200)[0]
    assert time.monotonic() - killed < 60
    assert child.returncode == 1, said
    assert "1 job: 1 failed" in said
    assert "another rank ended without a word" in said
    code, said = sweep.finish(*ONE_TASK_EACH)
    assert code == 0, said
    record = json.loads((sweep.run() / "run.json").read_text())
    assert record["restarts"] == 4
    assert_bit_identical(sweep.run(), runs[1])


def nodes(sweep: Sweep, job: str) -> list[str]:
    """Of a job, in order."""
    listed = sweep.slurm("squeue", "--noheader", "--jobs", job, "--format", "%N").strip()
    return sweep.slurm("scontrol", "show", "hostnames", listed).split()


def process_of_task(sweep: Sweep, job: str, task: int) -> int:
    """Its number, of a job with one task on each node."""
    lines = sweep.slurm("scontrol", "listpids", job, nodes(sweep, job)[task]).splitlines()
    return next(int(line.split()[0]) for line in lines if line.split()[-1] == str(task))
