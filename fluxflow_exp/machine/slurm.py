"""SLURM: the state of a job, and a new start for one that SLURM takes its node from.

States as squeue's manual lists them ("JOB STATE CODES").
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from fluxflow_exp.errors import UserError
from fluxflow_exp.machine.preemption import SCHEDULERS

ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT", "GONE"),
)
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")
UNKNOWN = "UNKNOWN"
COMMANDS = ("sbatch", "srun", "squeue")
SILENCE_SECONDS = 60  # that an answer may take
FRESH_SECONDS = 5.0

Handler = Callable[[int, FrameType | None], object]


@dataclass(frozen=True)
class JobState:
    """`state`: SLURM's word, UNKNOWN if it did not answer, GONE if it has forgotten the job; `reason`: why it is so."""

    state: str
    reason: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def waits(self) -> bool:
        return self.state in WAITING

    def __str__(self) -> str:
        """E.g. "pending: Resources"."""
        return self.state.lower() + (f": {self.reason}" if self.reason else "")


GONE = JobState("GONE", "the queue does not list it any more")
_answers: dict[str, tuple[float, dict[str, JobState] | JobState]] = {}


def job_state(job: str) -> JobState | None:
    """Ask the queue about a job ("5", or "5_0" of an array); None: it does not list it, or there is no queue here.

    SLURM forgets a job some minutes after its end. All jobs of an array are asked for at once.
    """
    array = job.partition("_")[0]
    until, answer = _answers.get(array, (0.0, JobState(UNKNOWN)))
    if time.monotonic() > until:
        answer = _ask(array)
        _answers[array] = time.monotonic() + FRESH_SECONDS, answer
    return answer if isinstance(answer, JobState) else answer.get(job)


def lacking() -> str | None:
    """Say why no job can be handed to SLURM from this machine; None: one can."""
    absent = [command for command in COMMANDS if shutil.which(command) is None]
    if absent:
        return f"there is no SLURM on this machine (no {', '.join(absent)})"
    answer = _squeue("--states=SPECIAL_EXIT")  # whose jobs are few, if any
    return answer.reason if isinstance(answer, JobState) else None


def _ask(array: str) -> dict[str, JobState] | JobState:
    """The state of each job of an array; or why that cannot be said."""
    try:
        answer = _squeue("--array", "--states=all", "--jobs", array, "--format", "%i|%T|%r")
    except FileNotFoundError:
        return {}  # not a machine of the cluster
    if isinstance(answer, JobState):
        return answer
    fields = [line.split("|", 2) for line in answer.splitlines()]
    return {job: JobState(state, "" if reason in ("None", "") else reason) for job, state, reason in fields}


def _squeue(*words: str) -> str | JobState:
    """What squeue prints; UNKNOWN: it does not answer. FileNotFoundError: it is not here."""
    try:
        asked = subprocess.run(
            ["squeue", "--noheader", *words], capture_output=True, text=True, timeout=SILENCE_SECONDS, check=False
        )
    except FileNotFoundError:
        raise
    except (OSError, subprocess.TimeoutExpired) as error:
        return JobState(UNKNOWN, f"squeue does not answer ({error})")
    if asked.returncode and "Invalid job id" not in asked.stderr:
        last = asked.stderr.strip().splitlines()[-1:] or [f"exit code {asked.returncode}"]
        return JobState(UNKNOWN, f"squeue does not answer ({last[0].removeprefix('squeue: ')})")
    return asked.stdout


def patient(python: str = sys.executable) -> str:
    """A shell command that takes Python's arguments: signals that come before they are listened to wait until then.

    A mask outlives exec, and so a job is not killed by what reaches it while its first modules are imported.
    """
    signals = ", ".join(str(int(each)) for each in SCHEDULERS)
    code = (
        f"import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [{signals}]); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    return shlex.join([python, "-ISc", code])


def listen(requeue_signal: int, *, first: bool) -> None:
    """Take over from submitit's handlers in a job, then let in the signals that have waited (see `patient`).

    `requeue_signal` is the one that submitit answers by queueing the job again and leaving. So is SIGTERM answered if
    it says that a job of higher priority takes the node: a job that ends by itself within the partition's GraceTime
    would be a failed one to SLURM, whatever its PreemptMode. A rank that is not the `first` leaves that to it.
    """
    submitits: Handler = signal.getsignal(requeue_signal)  # type: ignore[assignment]

    def requeue(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is sent to end what is queued again
        try:
            submitits(signum, frame)
        except (OSError, subprocess.SubprocessError) as error:
            raise UserError(
                f"what was trained is saved, but the job cannot be queued again ({error}): "
                "give the command that launched it again"
            ) from error

    def terminate(signum: int, frame: FrameType | None) -> None:
        if not first:
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may come twice
        if was_preempted(os.environ["SLURM_JOB_ID"]):
            requeue(requeue_signal, frame)
        sys.exit(128 + signum)

    signal.signal(requeue_signal, requeue)
    signal.signal(signal.SIGTERM, terminate)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SCHEDULERS)


def was_preempted(job: str) -> bool:
    """Whether a job of higher priority takes the node from this start of `job`."""
    try:
        asked = subprocess.run(
            ["scontrol", "show", "job", "--oneliner", job],
            capture_output=True, text=True, timeout=SILENCE_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"Whether the job was preempted cannot be said ({error})", flush=True)
        return False
    # Of an array, asked for by the id that its first job shares with it, every job is told of in a line.
    lines = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in asked.stdout.splitlines()]
    own = next((facts for facts in lines if facts.get("JobId") == job), {})
    return own.get("PreemptTime", "None") not in ("None", "Unknown", "N/A")
