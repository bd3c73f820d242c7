"""Signals set a flag; the loop acts on it at the next update boundary. Who sent it is answered after the save."""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Self, TypeVar

Part = TypeVar("Part")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
SCHEDULERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # what SLURM sends before it takes a node away
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)  # a time-out that is near: the job is to be queued again


def heard() -> list[signal.Signals]:
    """SIGNALS without SIGHUP, of a terminal that is gone, where the process was started to outlive it (nohup)."""
    return [each for each in SIGNALS if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]


class Interrupted(Exception):
    """The run was asked to stop and has saved its state."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopRequest:
    """Whether a signal asked this process to stop, inside a `with` block. A second SIGINT stops at once."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.alone = True  # no other rank waits for this process
        self.updating = False  # a save follows the update that is being made
        self._idle = self._twice = False
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._previous = {signum: signal.signal(signum, self._receive) for signum in heard()}
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    @contextmanager
    def idle(self, *, finishing: bool = False) -> Iterator[None]:
        """Inside nothing is done that a save would miss: a signal that comes raises Interrupted at once.

        One that came just before does so, too, unless what was begun by then is `finishing`. Of several ranks none
        stops by itself.
        """
        if self._twice:  # the exception was swallowed, as in a destructor
            raise KeyboardInterrupt
        self._idle = self.alone
        try:
            if self._idle and self.signum is not None and not finishing:
                raise Interrupted(self.signum)
            yield
        finally:
            self._idle = False

    def while_idle(self, parts: Iterable[Part], *, finishing: bool = False) -> Iterator[Part]:
        """Pass `parts` on; the wait for each is `idle`."""
        waiting = iter(parts)
        while True:
            with self.idle(finishing=finishing):
                part = next(waiting, None)
            if part is None:
                return
            yield part

    def hand_back(self, signum: int) -> bool:
        """Let the handler act that was there before, and say whether there was one.

        That of a SLURM job puts it back into the queue and leaves, on the first rank; on the others it returns.
        """
        previous = self._previous.get(signum)
        if signum not in SCHEDULERS or not callable(previous):
            return False
        previous(signum, None)
        return True

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a data worker, forked with this handler
            return
        if self.signum is not None and signum == signal.SIGINT:
            self._twice = True
            raise KeyboardInterrupt
        if self.signum not in WARNINGS:  # SIGTERM follows when the time is over, and means the same
            self.signum = signum
        name = signal.Signals(signum).name
        then = "saving at the end of this update, then stopping" if self.updating else "stopping before the next update"
        with suppress(OSError):  # the terminal is gone
            os.write(1, f"{name}: {then}\n".encode())  # print could be interrupted in the middle of its own buffer
        if self._idle:
            raise Interrupted(self.signum)
