"""How many cores this process may use, and how many readers beside each rank they hold."""

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from fluxflow_exp.machine.control_groups import folders


def usable() -> int:
    """Cores that this process may use: by its affinity and by the quota of its control group (a container's limit)."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min([here, *map(math.ceil, _quotas())]), 1)


def workers(asked: int, *, environment: Mapping[str, str] = os.environ) -> int:
    """Of `asked` data workers a rank those that the cores hold beside several ranks; 1 at least, if one was asked for.

    Each rank keeps a core for itself. A rank alone on its machine has what was asked: that number is its user's choice,
    and readers that wait for a disk take no core.
    """
    ranks = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    if ranks == 1 or not asked:
        return asked
    each = int(environment.get("SLURM_CPUS_PER_TASK", "0"))
    found = min(usable(), each or math.inf)
    if each and int(environment.get("SLURM_NTASKS", "1")) > 1:
        ranks = 1  # each is a task, with cores of its own
    held = int(found - ranks) // ranks
    return min(asked, max(held, 1))


def bound(asked: int, *, environment: Mapping[str, str] = os.environ) -> str | None:
    """What to say where `workers` gives fewer than `asked`; None: it does not."""
    given = workers(asked, environment=environment)
    if given == asked:
        return None
    ranks = environment["LOCAL_WORLD_SIZE"]
    return (
        f"Data workers: {given} for each of {ranks} ranks of this machine, not hardware.num_workers={asked}: "
        f"{environment.get('SLURM_CPUS_PER_TASK') or usable()} cores hold no more beside them"
    )


def _quotas() -> list[float]:
    """Cores by the quota of each control group that this process is in."""
    found = []
    for folder in folders("cpu"):
        found += _quota(folder / "cpu.max")
        found += _quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
    return found


def _quota(*files: Path) -> list[float]:
    """[cores], of microseconds a period; [] without a limit, or where there is no such file."""
    with suppress(OSError, ValueError):
        quota, period = " ".join(file.read_text() for file in files).split()
        if quota != "max" and int(quota) > 0:
            return [int(quota) / int(period)]
    return []
