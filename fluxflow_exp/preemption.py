"""Signals set a flag; the loop acts on it at the next update boundary. Who sent it is answered after the save."""

import os
import signal
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
SCHEDULERS = (signal.SIGUSR1, signal.SIGUSR2)  # what SLURM sends before it takes a node away


class Interrupted(Exception):
    """The run was asked to stop and has saved its state."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopRequest:
    """Whether a signal asked this process to stop, inside a `with` block. A second SIGINT stops at once."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._previous = {signum: signal.signal(signum, self._receive) for signum in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def hand_back(self, signum: int) -> bool:
        """Let the handler act that was there before, and say whether there was one.

        Submitit's puts the job back into the queue and leaves, on the first rank; on the others it returns.
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
            raise KeyboardInterrupt
        self.signum = signum
        name = signal.Signals(signum).name
        # os.write: print could be interrupted in the middle of its own buffer
        os.write(1, f"{name}: saving at the end of this update, then stopping\n".encode())
