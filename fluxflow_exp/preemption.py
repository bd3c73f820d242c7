"""Signals set a flag; the loop acts on it at the next update boundary."""

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """The run was asked to stop and has saved its state."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopRequest:
    """Whether SIGINT or SIGTERM asked this process to stop. A second SIGINT stops at once."""

    def __init__(self) -> None:
        self.signum: int | None = None
        for signum in SIGNALS:
            signal.signal(signum, self._receive)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum
        name = signal.Signals(signum).name
        print(f"{name}: saving at the end of this update, then stopping", flush=True)
