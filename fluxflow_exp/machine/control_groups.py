"""The control groups that this process is in: a container's or a job's limits are theirs."""

from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def folders(kind: str) -> list[Path]:
    """Where the files of each group lie that may limit `kind` ("cpu", "memory"), of version 2 and of version 1."""
    found = []
    with suppress(OSError, ValueError):
        for line in OWN_GROUP.read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if not kinds:
                folder = CGROUPS / path.lstrip("/")
                found += [each for each in (folder, *folder.parents) if each.is_relative_to(CGROUPS)]
            elif kind in kinds.split(","):
                found += [CGROUPS / kind / path.lstrip("/"), CGROUPS / kind]  # in a container it is at the root
    return found
