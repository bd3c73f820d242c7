"""The date, and seconds in which this process could work: a clock that stands still while the process does.

A job that SLURM suspends, Ctrl-Z, SIGSTOP and a paused container stop a process without telling it, while the system's
clock goes on. Here a thread looks at it every second: where it was not woken for long, and the process used no
processor meanwhile, it was stopped. What it waits for (data, a disk, a GPU) counts as work: the thread wakes then.
"""

import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

EVERY = 1.0  # seconds between looks
LONG = 5.0  # a gap between looks of so many seconds, in which
IDLE = 0.02  # so small a share was spent on a processor, is no work

LONGEST_START = 600.0  # seconds between a process's beginning and the question for it; more is an error

_lock = threading.Lock()
_seen, _used, _stopped = time.monotonic(), time.process_time(), 0.0
_thread: threading.Thread | None = None


def now() -> float:
    """Seconds; as time.monotonic, less those for which the process was stopped since it first asked."""
    global _thread, _seen, _used, _stopped
    with _lock:
        moment, used = time.monotonic(), time.process_time()
        if _thread is None:
            _thread = threading.Thread(target=_look, daemon=True)
            _thread.start()
        elif moment - _seen > LONG and used - _used < IDLE * (moment - _seen):
            _stopped += moment - _seen
        _seen, _used = moment, used
        return moment - _stopped


def process_began() -> float:
    """When this process began, as `now` counts; now, where the system does not tell."""
    moment = now()
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (AttributeError, LookupError, OSError, ValueError):
        age = 0.0
    return moment - age if 0 < age < LONGEST_START else moment


def date() -> str:
    """Return the moment as files have it: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def shown(seconds: float) -> str:
    """A length of time in words: "48 s", "4.2 min", "2.5 h"."""
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _look() -> None:
    while True:
        time.sleep(EVERY)
        now()
