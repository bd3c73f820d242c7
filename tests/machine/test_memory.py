"""Memory is what the machine has left, and no more than a container's limit."""

from pathlib import Path

import pytest

from fluxflow_exp.machine import control_groups, memory

MIB = 2**20


@pytest.mark.parametrize(
    ("own", "files", "usable"),
    [
        ("0::/\n", {}, 4096 * MIB),
        ("0::/\n", {"memory.max": "max\n"}, 4096 * MIB),
        ("0::/\n", {"memory.max": f"{1024 * MIB}\n"}, 1024 * MIB),
        ("0::/\n", {"memory.max": f"{8192 * MIB}\n"}, 4096 * MIB),
        ("0::/job/step\n", {"job/memory.max": f"{512 * MIB}\n", "job/step/memory.max": "max\n"}, 512 * MIB),
        ("4:cpu:/x\n3:memory:/x\n", {"memory/memory.limit_in_bytes": f"{256 * MIB}\n"}, 256 * MIB),
    ],
)
def test_a_limit_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str], usable: int
) -> None:
    monkeypatch.setattr(control_groups, "CGROUPS", tmp_path / "sys" / "cgroup")
    monkeypatch.setattr(control_groups, "OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text(f"MemTotal: {8 * 2**20} kB\nMemAvailable: {4 * 2**20} kB\n")
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        path = tmp_path / "sys" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert memory.usable() == usable


def test_without_the_count_of_linux_it_is_all_that_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = memory.usable()
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    assert memory.usable() >= available > 0
