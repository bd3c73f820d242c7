"""The date, and seconds in which this process could work: a clock that stands still while the process does.

A job that SLURM suspends, Ctrl-Z, SIGSTOP and a paused container stop a process without telling it, while the system's
clock goes on. Here a thread looks at it every second: where it was not woken for long, and the process used no
processor meanwhile, it was stopped. What it waits for (data, a disk, a GPU) counts as work: the thread wakes then.
"""

import threading
import time
from datetime import UTC, datetime

EVERY = 1.0  # seconds between looks
LONG = 5.0  # a gap between looks of so many seconds, in which
IDLE = 0.02  # so small a share was spent on a processor, is no work

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


def date() -> str:
    """Return the moment as files have it: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _look() -> None:
    while True:
        time.sleep(EVERY)
        now()
