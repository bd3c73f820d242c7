"""A data set with a planted defect, for sweeps whose jobs must not all end well."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

from fluxflow_exp.data.protocols import Contents, Sample
from fluxflow_exp.data.shapes import Shapes

HEALED = Path("healed")  # once it is there, no defect acts
READS = 20  # before a defect acts


class Planted(Shapes):
    """Shapes that end their process in the way that `plant` names, until the file `healed` is there.

    crash: an exception. killed: SIGKILL, as by the kernel when memory is short. hangs: until the time limit, deaf to
    signals. preempted: SIGUSR2, once, as from SLURM. pause: slow enough to be interrupted from outside.
    """

    def __init__(self, *, plant: str, img_size: int, n_images: int, n_validation: int = 8, **options: Any) -> None:
        super().__init__(img_size=img_size, n_images=n_images, n_validation=n_validation, **options)
        self.train = _Source(self.train, plant.rstrip("0123456789"))  # type: ignore[assignment]


class _Source:
    groups = None
    varies = "a defect is planted in it"

    def __init__(self, source: Any, plant: str) -> None:
        self.source, self.plant, self.reads = source, plant, 0

    def __len__(self) -> int:
        return len(self.source)

    def fingerprint(self, *, times: bool = True) -> str:
        return self.source.fingerprint(times=times)

    def contents(self) -> Contents:
        return self.source.contents()

    def read(self, index: int, rng: random.Random) -> Sample:
        self.reads += 1
        if self.reads > READS and not HEALED.exists():
            self._act()
        sample: Sample = self.source.read(index, rng)
        return sample

    def _act(self) -> None:
        if self.plant == "crash":
            raise RuntimeError("planted")
        if self.plant == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.plant == "hangs":
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            time.sleep(3600)
        if self.plant == "pause":
            time.sleep(0.05)
        if self.plant == "preempted" and self.reads == READS + 1 and "SLURM_RESTART_COUNT" not in os.environ:
            os.kill(os.getpid(), signal.SIGUSR2)
