"""Training the runs of a study: a sweep an arm, each in a process of its own, by the command that a user would type.

What is done is left out and what was interrupted continues because sweeps do so.
"""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import slurm
from fluxflow_exp.machine.preemption import SIGNALS
from fluxflow_exp.run import states
from fluxflow_exp.study.runs import Run
from fluxflow_exp.study.spec import Spec

LOOK_SECONDS = 5.0  # between looks at runs that another process has
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def command(spec: Spec, runs: list[Run]) -> list[str]:
    """The words of the sweep of `runs`, which differ in their seeds alone."""
    seeds = ",".join(str(run.seed) for run in runs)
    groups = ["--config-dir", spec.config_dir] if spec.config_dir else []
    launcher = [] if spec.where == "here" else [f"hydra/launcher={spec.where}"]
    return ["python", "-m", "fluxflow_exp", "-m", *groups, *runs[0].words, f"seed={seeds}", *launcher]


def lacking(spec: Spec) -> str | None:
    """Say why no run of the study can be started from this machine; None: they can."""
    why = slurm.lacking() if spec.where == "slurm" else None
    return why and f"where=slurm: {why}. Start it on a machine of the cluster, or say where=here or where=slurm_local"


def train(spec: Spec, runs: list[Run]) -> list[Run]:
    """Train those of `runs` that are not done; those that have failed by then are returned.

    SystemExit: a signal stopped it; what was at hand has saved. UserError: a sweep could not begin.
    """
    waited, failed = False, list[Run]()
    while True:
        entries = {run: run.entry() for run in runs if run not in failed}
        todo = [run for run, entry in entries.items() if entry.state in states.TO_RUN or _is_old(run, entry)]
        active = [run for run, entry in entries.items() if entry.state in (states.RUNNING, states.QUEUED)]
        if not todo and not active:
            return failed
        if todo:
            why = lacking(spec)
            if why:
                raise UserError(why)
            _sweeps(spec, todo)
            failed += [run for run in todo if run.entry().state == states.FAILED]
            left = [run for run in todo if run.entry().state in (states.NEW, states.INTERRUPTED)]
            if left:
                raise UserError(
                    f"{left[0].arm} with seed {left[0].seed} was not trained to its end: its sweep says why above. "
                    "The same command continues it"
                )
        if active:
            if not waited:
                print(f"Waiting for {_named(active)}, which another process or the scheduler has", flush=True)
            waited = True
            time.sleep(LOOK_SECONDS)


def _is_old(run: Run, entry: states.Entry) -> bool:
    """Whether the sweep is to move it aside."""
    return entry.state in (states.STALE, states.DAMAGED) and run.values["resume"] == "fresh"


def _named(runs: list[Run]) -> str:
    first = f"{runs[0].arm} with seed {runs[0].seed}"
    return first if len(runs) == 1 else f"{len(runs)} runs ({first}, …)"


def _sweeps(spec: Spec, runs: list[Run]) -> None:
    """A sweep for each arm: one after the other here, all at once where a scheduler has the devices."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(run.words, []).append(run)
    for run in runs:
        run.folder.path.mkdir(parents=True, exist_ok=True)  # of one name, whichever seeds are launched together
    waves = [[each] for each in groups.values()] if spec.where == "here" else [list(groups.values())]
    for wave in waves:
        codes = _children([command(spec, each) for each in wave], [each[0].arm for each in wave], group=spec.name)
        if 2 in codes:
            raise UserError("a sweep could not begin: what is wrong is said above")


def _children(commands: list[list[str]], names: list[str], *, group: str) -> list[int]:
    """Run the commands side by side; their exit codes. Several ones' lines begin with their names.

    `group`: of their runs on W&B.

    A signal to this process goes on to them, and ends it after they have ended (SystemExit).
    """
    received: list[int] = []
    children: list[subprocess.Popen[str]] = []

    def pass_on(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        for child in children:
            if child.poll() is None:
                child.send_signal(signum)

    previous = {signum: signal.signal(signum, pass_on) for signum in SIGNALS}
    try:
        alone = len(commands) == 1
        for words in commands:
            print(f"\n$ {shlex.join(words)}", flush=True)
            children.append(_start([sys.executable, *words[1:]], group, piped=not alone))
        readers = [
            threading.Thread(target=_repeat, args=(child, name), daemon=True)
            for child, name in zip(children, names, strict=True)
            if child.stdout
        ]
        for reader in readers:
            reader.start()
        codes = [child.wait() for child in children]
        for reader in readers:
            reader.join()
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    if received:
        print("The study was stopped. The same command continues it", flush=True)
        raise SystemExit(128 + received[0])
    stopped = [code for code in codes if code < 0 or code > 128]
    if stopped:
        raise UserError(f"a sweep was ended from outside (exit code {stopped[0]}). The same command continues it")
    return codes


def _start(words: list[str], group: str, *, piped: bool) -> "subprocess.Popen[str]":
    """A process in a group of its own, which a Ctrl-C reaches once; it saves and stops if this one dies."""
    pipe = subprocess.PIPE if piped else None
    error = subprocess.STDOUT if piped else None
    return subprocess.Popen(
        words,
        stdout=pipe,
        stderr=error,
        text=True,
        env={**os.environ, "WANDB_RUN_GROUP": group},
        start_new_session=True,
        preexec_fn=_dies_with(os.getpid()),
    )


def _dies_with(parent: int) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return ask


def _repeat(child: "subprocess.Popen[str]", name: str) -> None:
    assert child.stdout
    for line in child.stdout:
        print(f"{name}: {line}", end="", flush=True)
