"""Commands in processes of their own, one after the other or side by side; they save and stop when this one does."""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NamedTuple

from fluxflow_exp.errors import UserError
from fluxflow_exp.machine.preemption import heard

ANY = ""  # a place with all GPUs that this process sees
POLL_SECONDS = 0.2
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class Child(NamedTuple):
    name: str  # at the head of its lines, where several run side by side
    words: list[str]  # "python", "-m", …


class _Running(NamedTuple):
    process: "subprocess.Popen[str]"
    place: str
    reader: threading.Thread | None


def run(commands: Sequence[Child], *, places: Sequence[str], group: str) -> list[int]:
    """Run `commands`, as many at a time as there are `places`; their exit codes, in the order of their ends.

    A place is a list of GPUs as CUDA_VISIBLE_DEVICES has them, or ANY. `group`: of their runs on W&B. A signal to this
    process goes on to those that run, and ends it after they have ended (SystemExit). One that could not begin (2), or
    was ended from outside (UserError), is the last: those beside it come to their ends, and no other begins.
    """
    received: list[int] = []
    waiting, free, running, codes = deque(commands), deque(places), list[_Running](), list[int]()

    def pass_on(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        for each in running:
            if each.process.poll() is None:
                each.process.send_signal(signum)

    previous = {signum: signal.signal(signum, pass_on) for signum in heard()}
    try:
        while True:
            while waiting and free and not received and not any(_ends_all(code) for code in codes):
                running.append(_start(waiting.popleft(), free.popleft(), group, several=len(places) > 1))
                if received:  # while it was started
                    running[-1].process.send_signal(received[-1])
            if not running:
                break
            time.sleep(POLL_SECONDS)
            for each in [each for each in running if each.process.poll() is not None]:
                if each.reader:
                    each.reader.join()
                running.remove(each)
                free.append(each.place)
                codes.append(each.process.returncode)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    if received:
        print("The study was stopped. The same command continues it", flush=True)
        raise SystemExit(128 + received[0])
    stopped = [code for code in codes if _is_outside(code)]
    if stopped:
        raise UserError(f"a command was ended from outside (exit code {stopped[0]}). The same command continues it")
    return codes


def _ends_all(code: int) -> bool:
    return code == 2 or _is_outside(code)


def _is_outside(code: int) -> bool:
    """Whether a signal has ended it that did not come through this process."""
    return code < 0 or code > 128


def _start(child: Child, place: str, group: str, *, several: bool) -> _Running:
    """A process in a group of its own, which a Ctrl-C reaches once; it saves and stops if this one dies."""
    own = {} if place == ANY else {"CUDA_VISIBLE_DEVICES": place}
    print("\n$ " + "".join(f"{key}={value} " for key, value in own.items()) + shlex.join(child.words), flush=True)
    process = subprocess.Popen(
        [sys.executable, *child.words[1:]],
        stdout=subprocess.PIPE if several else None,
        stderr=subprocess.STDOUT if several else None,
        text=True,
        env={**os.environ, "WANDB_RUN_GROUP": group, **own},
        start_new_session=True,
        preexec_fn=_dies_with(os.getpid()),
    )
    if not several:
        return _Running(process, place, None)
    reader = threading.Thread(target=_repeat, args=(process, child.name), daemon=True)
    reader.start()
    return _Running(process, place, reader)


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
