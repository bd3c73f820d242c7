"""Readers are as many as the cores hold beside the ranks, and a container's limit counts as its cores do."""

from pathlib import Path

import pytest

from fluxflow_exp.machine import control_groups, cores


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 cores without control groups."""
    monkeypatch.setattr(control_groups, "CGROUPS", tmp_path / "sys" / "cgroup")
    monkeypatch.setattr(control_groups, "OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda process: {*range(64)}, raising=False)
    return tmp_path / "sys" / "cgroup"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("own", "files", "usable"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "650000 100000\n"}, 7),
        ("0::/job/step\n", {"job/cpu.max": "1600000 100000\n", "job/step/cpu.max": "max 100000\n"}, 16),
        ("4:memory:/x\n3:cpu,cpuacct:/x\n", {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "all of them"}, 64),
    ],
)
def test_a_quota_counts_as_its_cores(groups: Path, own: str, files: dict[str, str], usable: int) -> None:
    write(groups.parents[1] / "own", own)
    for name, text in files.items():
        write(groups / name, text)
    assert cores.usable() == usable


@pytest.mark.parametrize(
    ("asked", "environment", "given"),
    [
        (100, {}, 100),  # alone: as it was asked
        (100, {"LOCAL_WORLD_SIZE": "1"}, 100),
        (12, {"LOCAL_WORLD_SIZE": "4"}, 12),
        (16, {"LOCAL_WORLD_SIZE": "4"}, 15),  # (64 - 4) / 4
        (12, {"LOCAL_WORLD_SIZE": "8"}, 7),
        (12, {"LOCAL_WORLD_SIZE": "64"}, 1),
        (0, {"LOCAL_WORLD_SIZE": "64"}, 0),
        (12, {"LOCAL_WORLD_SIZE": "2", "SLURM_NTASKS": "2", "SLURM_CPUS_PER_TASK": "9"}, 8),  # a task each
        (12, {"LOCAL_WORLD_SIZE": "2", "SLURM_NTASKS": "1", "SLURM_CPUS_PER_TASK": "18"}, 8),  # torchrun in one task
    ],
)
def test_each_rank_keeps_a_core(groups: Path, asked: int, environment: dict[str, str], given: int) -> None:
    assert cores.workers(asked, environment=environment) == given
    assert (cores.bound(asked, environment=environment) is None) == (given == asked)


def test_what_bounds_is_said(groups: Path) -> None:
    assert cores.bound(12, environment={"LOCAL_WORLD_SIZE": "8"}) == (
        "Data workers: 7 for each of 8 ranks of this machine, not hardware.num_workers=12: "
        "64 cores hold no more beside them"
    )
