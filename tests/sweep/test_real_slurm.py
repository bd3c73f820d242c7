"""Against a real SLURM: sweeps, time-outs, requeues, preemption, cancelled jobs, lost nodes, and several tasks.

`tests/sweep/slurm_cluster.sh` starts one on this machine, where it can; elsewhere these tests are skipped, with why.
"""

import json
import time
from pathlib import Path

import pytest

from tests.helpers.slurm_jobs import LONG, MIDDLE, PAUSE, PLANTED, RARELY, Sweep, assert_bit_identical, undisturbed

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(280)]

REPOSITORY = Path(__file__).parents[2]


def test_a_sweep_of_four(sweep: Sweep) -> None:
    code, said = sweep.finish("seed=0,1,2,3", "stage.steps.vae.n_epochs=1")
    assert code == 0, said
    assert "4 jobs: 4 done" in said
    started = time.monotonic()
    code, said = sweep.finish("seed=0,1,2,3", "stage.steps.vae.n_epochs=1")
    assert code == 0, said
    assert "0 to run" in said
    assert "Submitted" not in said
    assert time.monotonic() - started < 30


def test_a_job_that_runs_out_of_time_is_requeued_and_ends_with_the_same_bytes(sweep: Sweep, tmp_path: Path) -> None:
    child = sweep.start(*LONG, "hardware.slurm.minutes=1", "hardware.slurm.signal_seconds=30")
    (tmp_path / "apart").mkdir()
    in_one_piece = undisturbed(sweep.environment, tmp_path / "apart", LONG)
    said = child.communicate(timeout=240)[0]
    assert child.returncode == 0, said
    record = json.loads((sweep.run() / "run.json").read_text())
    assert record["restarts"] >= 1
    assert record["kills"] == 0  # each time it saved before it went
    assert "Stopped by SIGUSR2" in (sweep.run() / "log.txt").read_text()
    assert_bit_identical(sweep.run(), in_one_piece)


def test_a_job_that_is_requeued_in_mid_run_ends_with_the_same_bytes(sweep: Sweep, middle: Path) -> None:
    child = sweep.start(*MIDDLE)
    job = sweep.wait_until_it_trains(child)
    sweep.slurm("scontrol", "requeue", job)
    said = child.communicate(timeout=200)[0]
    assert child.returncode == 0, said
    assert json.loads((sweep.run() / "run.json").read_text())["restarts"] == 1
    assert_bit_identical(sweep.run(), middle)


def test_a_cancelled_job_is_told_of_and_continued_by_the_same_command(sweep: Sweep, middle: Path) -> None:
    child = sweep.start(*MIDDLE)
    sweep.slurm("scancel", sweep.wait_until_it_trains(child))
    said = child.communicate(timeout=200)[0]
    assert child.returncode == 1, said
    assert "1 job: 1 failed" in said
    assert "CANCELLED" in said
    code, said = sweep.finish(*MIDDLE)
    assert code == 0, said
    assert "continued 1 time" in said
    assert_bit_identical(sweep.run(), middle)


def test_jobs_that_make_room_are_queued_again_in_every_preempt_mode(cluster: dict[str, str], tmp_path: Path) -> None:
    """REQUEUE and CANCEL with a GraceTime, and CANCEL without one, as `slurm_cluster.sh` sets them up."""
    started = {}
    for partition in ("requeue", "cancel", "at_once"):
        (tmp_path / partition).mkdir()
        sweep = Sweep(tmp_path / partition, cluster)
        started[sweep] = sweep.start(*PAUSE, "stage.steps.vae.n_epochs=16", f"hardware.slurm.partition={partition}")
    for sweep, child in started.items():
        sweep.wait_until_it_trains(child)
    sweep.slurm("srun", "--partition=main", "--nodes=3", "--exclusive", "true")
    for sweep, child in started.items():
        said = child.communicate(timeout=200)[0]
        assert child.returncode == 0, said
        assert ": running" in said
        record = json.loads((sweep.run() / "run.json").read_text())
        assert (record["restarts"], record["kills"]) == (1, 0)
        assert "Stopped by SIGTERM" in (sweep.run() / "log.txt").read_text()


def test_a_signal_before_anything_listens_queues_the_job_again(sweep: Sweep) -> None:
    child = sweep.start("stage.steps.vae.n_epochs=1")
    while ".0 " not in (steps := sweep.slurm("squeue", "--steps", "--noheader", "--format", "%i ")):
        assert child.poll() is None, child.communicate()[0]
    time.sleep(0.3)
    job = steps.partition(".")[0].strip()
    sweep.slurm("scancel", "--signal=USR2", job)
    said = child.communicate(timeout=200)[0]
    assert child.returncode == 0, said
    assert "Restarts=1" in sweep.slurm("scontrol", "show", "job", job)


def test_failed_jobs_are_failed_to_slurm_too_and_each_reason_is_told(sweep: Sweep) -> None:
    code, said = sweep.finish("seed=0,1,2", *PLANTED, "+data.plant=crash", *RARELY)
    assert code == 1, said
    assert said.count("failed planted (log: ") == 3
    assert "queued" not in said
    array = said.partition("Submitted 3 jobs: ")[2].partition("_")[0]
    sweep.slurm(
        "bash", "-c", f"while squeue --noheader --jobs {array} --states=running,completing | grep .; do sleep 0.5; done"
    )
    assert [sweep.state(f"{array}_{i}") for i in range(3)] == [["FAILED", "1:0"]] * 3


def test_two_tasks_are_two_ranks_and_are_requeued_together(sweep: Sweep) -> None:
    child = sweep.start(*MIDDLE, "hardware.devices=2")
    sweep.slurm("scancel", "--signal=USR2", sweep.wait_until_it_trains(child))
    said = child.communicate(timeout=200)[0]
    assert child.returncode == 0, said
    record = json.loads((sweep.run() / "run.json").read_text())
    assert (record["restarts"], record["kills"]) == (1, 0)
    assert json.loads((sweep.run() / "run.json").read_text())["made_with"]["machine"].startswith("2 x CPU")
    assert "2 ranks x 1 x 4" in (sweep.run() / "log.txt").read_text()


def test_a_job_whose_node_goes_down_starts_again_elsewhere(sweep: Sweep, middle: Path) -> None:
    child = sweep.start(*MIDDLE)
    job = sweep.wait_until_it_trains(child)
    node = sweep.slurm("squeue", "--noheader", "--jobs", job, "--format", "%N").strip()
    for state in ("down", "drain"):  # it registers again by itself, and is to get no job before the old one has ended
        sweep.slurm("scontrol", "update", f"nodename={node}", f"state={state}", "reason=test")
    said = child.communicate(timeout=200)[0]
    sweep.slurm("scontrol", "update", f"nodename={node}", "state=resume")
    assert child.returncode == 0, said
    assert json.loads((sweep.run() / "run.json").read_text())["restarts"] == 1
    assert_bit_identical(sweep.run(), middle)


def test_a_sweep_of_twelve_with_planted_ends(sweep: Sweep) -> None:
    """Crash, time-out, preemption, memory: the second launch runs what is unfinished, and an edit makes jobs stale."""
    groups = sweep.folder / "groups" / "scheduler"
    groups.mkdir(parents=True)
    text = (REPOSITORY / "conf" / "scheduler" / "cosine.yaml").read_text()
    (groups / "mine.yaml").write_text(text)
    plants = ["crash", "hangs", "preempted", "killed", *(f"none{i}" for i in range(8))]
    twelve = [
        "--config-dir", str(groups.parent), "scheduler=mine", *PLANTED, f"+data.plant={','.join(plants)}",
        "stage.steps.vae.n_epochs=8", "hardware.slurm.minutes=1", "hardware.slurm.signal_seconds=10", *RARELY,
        "hydra.launcher.array_parallelism=4",
    ]  # fmt: skip
    code, said = sweep.finish(*twelve)
    assert code == 1, said
    assert "12 jobs: 12 new; 12 to run" in said
    assert "9 done" in said
    assert "3 failed" in said
    lines = {plant: next(line for line in said.splitlines()[::-1] if f"plant={plant} " in line) for plant in plants[:4]}
    assert "planted" in lines["crash"]
    assert "TIMEOUT" in lines["hangs"]
    assert "done" in lines["preempted"]
    assert "continued 1 time" in lines["preempted"]
    assert "failed" in lines["killed"]

    before = {p.parent.name: p.stat().st_mtime_ns for p in sweep.folder.glob("outputs/*/*/summary.json")}
    (sweep.folder / "healed").touch()
    code, said = sweep.finish(*twelve)
    assert code == 0, said
    assert "12 jobs: 3 failed, 9 done; 3 to run" in said.replace("9 done, 3 failed", "3 failed, 9 done")
    after = {p.parent.name: p.stat().st_mtime_ns for p in sweep.folder.glob("outputs/*/*/summary.json")}
    assert {name for name in after if after[name] == before.get(name)} == set(before)
    assert len(after) == 12

    (groups / "mine.yaml").write_text(text.replace("warmup: 0.02", "warmup: 0.5"))
    code, said = sweep.finish(*twelve)
    assert code == 1, said
    assert "12 jobs: 12 stale; 0 to run" in said
    assert "Submitted" not in said
