"""What becomes of jobs as SLURM tells it, and what a job does that is told to go; SLURM's commands are stood in for."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher

from fluxflow_exp import files
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import slurm
from fluxflow_exp.machine.preemption import SCHEDULERS
from fluxflow_exp.run import states
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.sweep import launchers
from fluxflow_exp.sweep.jobs import Job

Say = Callable[[str, str], None]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Makes a command of SLURM's be a shell line."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr(slurm, "FRESH_SECONDS", 0.0)

    def say(command: str, line: str) -> None:
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / command).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / command).chmod(0o755)

    return say


def submitted(folder: Path, job: str = "7_0", launcher: str = "slurm") -> RunFolder:
    """A run folder whose job was handed to a scheduler."""
    run = RunFolder(folder)
    run.create({"stage": {"steps": {"vae": {}}}}, {"upstream": {}})
    files.write_json(run.submitted, {"launcher": launcher, "job": job})
    return run


@pytest.mark.parametrize(
    ("word", "failed", "without_a_failure"),
    [(word, states.FAILED, states.NEW) for word in slurm.ENDED if word != "GONE"]
    + [("COMPLETING", states.FAILED, states.QUEUED), ("RUNNING", states.FAILED, states.QUEUED)]
    + [(word, states.QUEUED, states.QUEUED) for word in ("PENDING", "REQUEUE_HOLD")],
)
def test_a_job_that_has_failed_is_not_queued(
    tmp_path: Path, say: Say, word: str, failed: str, without_a_failure: str
) -> None:
    say("squeue", f"echo '7_0|{word}|Resources'")
    run = submitted(tmp_path / "run")
    entry = states.inspect(run)
    assert entry.state == without_a_failure
    assert entry.note == (f"{word.lower()}: Resources" if without_a_failure == states.QUEUED else "")
    run.record_failure("planted")
    assert states.inspect(run).state == failed


@pytest.mark.parametrize(
    ("line", "state", "note"),
    [
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", states.NEW, ""),
        ("echo 'Unable to contact slurm controller' >&2; exit 1", states.QUEUED, "Unable to contact slurm controller"),
        ("exec sleep 20", states.QUEUED, "timed out"),
        ("exec echo '7_1|RUNNING|None'", states.NEW, ""),  # the array goes on, this job of it is forgotten
    ],
)
def test_a_queue_that_does_not_answer_still_has_the_job(
    tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch, line: str, state: str, note: str
) -> None:
    monkeypatch.setattr(slurm, "SILENCE_SECONDS", 0.3)
    say("squeue", line)
    entry = states.inspect(submitted(tmp_path / "run"))
    assert entry.state == state
    assert note in entry.note


def test_whether_jobs_can_be_handed_to_slurm(tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    say("srun", "")
    assert slurm.lacking() == "there is no SLURM on this machine (no sbatch, squeue)"
    say("sbatch", "")
    say("squeue", "echo 'squeue: error: asked' >&2; echo 'squeue: fatal: nobody there' >&2; exit 1")
    assert slurm.lacking() == "squeue does not answer (fatal: nobody there)"
    say("squeue", "echo '7|SPECIAL_EXIT|None'")
    assert slurm.lacking() is None


def test_no_queue_here_and_the_number_of_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(slurm, "FRESH_SECONDS", 0.0)
    assert states.inspect(submitted(tmp_path / "slurm")).state == states.NEW
    for process in (1, os.getpid()):  # somebody else's, and one that is no job
        assert states.inspect(submitted(tmp_path / str(process), str(process), "local")).state == states.NEW


def test_the_log_that_is_named_exists(tmp_path: Path) -> None:
    run = submitted(tmp_path / "run", "1", "local")
    run.record_failure("planted")
    assert states.inspect(run).note == "planted"
    run.log.touch()
    assert states.inspect(run).note == f"planted (log: {run.log})"


class Handle:
    """Of a job that leaves a result, or none."""

    def __init__(self, folder: Path, job_id: str, *outcome: str) -> None:
        self.job_id, self.outcome = job_id, outcome
        self.paths = SimpleNamespace(result_pickle=folder / f"{job_id}.pkl", stderr=folder / f"{job_id}_0_log.err")
        if outcome:
            self.paths.result_pickle.touch()

    def task(self, number: int) -> "Handle":
        assert number == 0
        return self

    def _get_outcome_and_result(self) -> tuple[str, ...]:
        return self.outcome


def test_every_job_is_told_of_while_it_waits_and_when_it_ends(
    tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launchers, "LOOK_SECONDS", 0.0)
    words = "PENDING|Priority PENDING|Priority PENDING|Resources RUNNING|None PREEMPTED|None PREEMPTED|None"
    looks = iter(words.split())

    def look(seconds: float) -> None:
        say("squeue", "".join(f"echo '7_{i}|{word}';" for word in [next(looks, "")] for i in range(2)))

    look(0)
    monkeypatch.setattr(launchers, "time", SimpleNamespace(monotonic=time.monotonic, sleep=look))
    jobs = [Job(f"seed={i}", [], {}, submitted(tmp_path / str(i), f"7_{i}"), states.Entry("new")) for i in range(3)]
    trace = 'Traceback:\n  File "x"\nyaml.ParserError: while parsing\n  in line 2\n'
    handles = [Handle(tmp_path, "7_0"), Handle(tmp_path, "7_1"), Handle(tmp_path, "7_2", "error", trace)]
    launchers.Slurm()._wait(jobs, handles)
    assert capsys.readouterr().out.splitlines() == [
        f"seed=2: failed yaml.ParserError: while parsing in line 2 (log: {tmp_path}/7_2_0_log.err)",
        "seed=0, seed=1: pending: Priority",
        "seed=0, seed=1: pending: Resources",
        "seed=0, seed=1: running",
        *(f"seed={i}: failed the job has ended: PREEMPTED (log: {tmp_path}/7_{i}_0_log.err)" for i in range(2)),
    ]
    assert not any(job.folder.submitted.exists() for job in jobs)


def test_a_job_that_fails_ends_by_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that SLURM sees exit code 1: Hydra alone would return, and end it well."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    failed = JobReturn(status=JobStatus.FAILED)
    failed.return_value = UserError("planted")
    monkeypatch.setattr(BaseSubmititLauncher, "__call__", lambda self, *arguments: failed)
    with pytest.raises(UserError, match="planted"):
        launchers.SlurmLocal()([])


class Requeued(SystemExit):
    pass


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """Listens as the first rank of job 7 that submitit would queue again by raising Requeued."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR2)}

    def submitits(signum: int, frame: Any) -> None:
        subprocess.run(["scontrol", "requeue", "7"], check=True)
        raise Requeued

    def listen(*, first: bool = True) -> None:
        signal.signal(signal.SIGUSR2, submitits)
        slurm.listen(signal.SIGUSR2, first=first)

    yield listen
    for signum, handler in before.items():
        signal.signal(signum, handler)


TAKEN = "2026-11-29T01:18:22"
SHOWN = "[ $1 = requeue ] && exit; echo JobId=7 JobState={} PreemptEligibleTime=2026-11-29T01:18:19 PreemptTime={}"


@pytest.mark.parametrize(
    ("line", "ends"),
    [
        (SHOWN.format("RUNNING", TAKEN), Requeued),
        (SHOWN.format("COMPLETING", TAKEN), Requeued),  # PreemptMode=CANCEL without GraceTime
        (SHOWN.format("COMPLETING", "None"), SystemExit),  # cancelled, or queued again already
        (SHOWN.format("RUNNING", TAKEN) + "; echo JobId=8 ArrayJobId=7 PreemptTime=None", Requeued),
        (SHOWN.format("RUNNING", "None") + f"; echo JobId=8 ArrayJobId=7 PreemptTime={TAKEN}", SystemExit),
        ("exit 1", SystemExit),
    ],
)
def test_a_job_whose_node_is_taken_is_queued_again(
    say: Say, listening: Callable[..., None], line: str, ends: type[SystemExit]
) -> None:
    say("scontrol", line)
    signal.pthread_sigmask(signal.SIG_BLOCK, SCHEDULERS)
    signal.raise_signal(signal.SIGTERM)  # before anybody listens; to this thread, of whatever others there are
    with pytest.raises(SystemExit) as ended:
        listening()
    assert type(ended.value) is ends
    assert ended.value.code == (None if ends is Requeued else 143)
    signal.raise_signal(signal.SIGTERM)  # it comes more than once


def test_other_ranks_leave_it_to_the_first(say: Say, listening: Callable[..., None]) -> None:
    say("scontrol", "exit 1")
    listening(first=False)
    signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN, "it has done nothing"


def test_a_node_without_scontrol_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listening: Callable[..., None]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    listening()
    with pytest.raises(UserError, match=r"cannot be queued again .*scontrol.*give the command"):
        signal.raise_signal(signal.SIGUSR2)


def test_signals_wait_while_a_job_starts() -> None:
    """A Python that is started the patient way is not killed by what it has no handler for yet."""
    code = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); print(*signal.sigpending())"
    line = f"{slurm.patient()} -c {code!r}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, str(int(signal.SIGUSR2))), done.stderr
