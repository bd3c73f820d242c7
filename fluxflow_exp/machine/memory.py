"""How much memory of the host this process may use."""

import os
from contextlib import suppress
from pathlib import Path

from fluxflow_exp.machine.control_groups import folders

MEMINFO = Path("/proc/meminfo")
LIMITS = ("memory.max", "memory.limit_in_bytes")  # of control groups, version 2 and version 1


def usable() -> int:
    """Bytes: what the machine has left, and no more than the limits of the control groups (a container, a job)."""
    return min([_left(), *_limits()])


def _left() -> int:
    """What Linux says is available; elsewhere all that the machine has."""
    with suppress(OSError):
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _limits() -> list[int]:
    found = []
    for folder in folders("memory"):
        for name in LIMITS:
            with suppress(OSError, ValueError):  # none of that version, or "max"
                found.append(int((folder / name).read_text()))
    return found
