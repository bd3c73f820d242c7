"""One process in a run folder, whatever is asked for at what moment; and looking, which holds nothing."""

import errno
import fcntl
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp.errors import UserError
from fluxflow_exp.run import lock as folder_lock
from fluxflow_exp.run import opening, states
from fluxflow_exp.run.folder import RunFolder
from tests.conftest import toy
from tests.helpers.read_only import make_read_only
from tests.run.conftest import prepared

FORK = multiprocessing.get_context("fork")


def vae(output: Path, *overrides: str) -> dict[str, Any]:
    return toy(output, "~stage.steps.vae_gan", "~stage.steps.flow", *overrides)


def opened(values: dict[str, Any]) -> tuple[RunFolder, str]:
    """The run folder of `values` as a command has it before its first update."""
    known = prepared(values)
    return known[0], opening.open_run(*known, machine="here")


def _race(known: tuple[Any, ...], start: Any, said: Any) -> None:
    start.wait()
    try:
        opening.open_run(*known, machine="here")
        time.sleep(0.1)  # trains
        said.send("new")
    except UserError as error:
        said.send(str(error))
    os._exit(0)


def test_of_two_commands_at_one_moment_one_trains_and_the_other_is_told_why_not(tmp_path: Path, quick: None) -> None:
    seeds = [vae(tmp_path, f"seed={seed}") for seed in (0, 1)]
    for attempt in range(5):
        both = [prepared({**values, "name": f"run-{attempt}"}) for values in seeds]
        start, (hear, said) = FORK.Barrier(2), FORK.Pipe(duplex=False)
        racers = [FORK.Process(target=_race, args=(known, start, said)) for known in both]
        for racer in racers:
            racer.start()
        ends = sorted(hear.recv() for _ in racers)
        for racer in racers:
            racer.join()
        first = both[0][0].frozen()["seed"]
        assert ends[1] == "new", ends
        assert f"seed: {first} there, {1 - first} asked" in ends[0]


def test_fresh_moves_no_folder_that_is_trained_in(tmp_path: Path, quick: None) -> None:
    live, _ = opened(vae(tmp_path))
    before = live.record.read_bytes()
    with pytest.raises(UserError, match="another process is training"):
        opened(vae(tmp_path, "resume=fresh"))
    assert live.record.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["quickstart"]
    live.unlock()
    fresh, how = opened(vae(tmp_path, "resume=fresh"))
    assert (how, (tmp_path / "quickstart.old-1" / "run.json").read_bytes()) == ("new", before)
    assert not RunFolder(tmp_path / "quickstart.old-1").in_use()
    with pytest.raises(UserError, match="another process is training"):
        RunFolder(fresh.path).lock()


def test_a_process_that_was_forked_does_not_keep_the_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create({}, {})
    folder.lock()
    worker = FORK.Process(target=time.sleep, args=(60,))
    worker.start()
    try:
        until = time.monotonic() + 10
        while not RunFolder(folder.path).try_lock():
            folder.unlock()  # the worker outlives it
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        worker.kill()
        worker.join()


def test_a_folder_that_is_held_from_inside_alone_is_in_use(tmp_path: Path, quick: None) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create({}, {})
    with (folder.path / ".lock").open("w") as older:
        fcntl.flock(older, fcntl.LOCK_EX)
        assert folder.in_use()
        with pytest.raises(UserError, match="another process is training"):
            folder.lock()
        assert not folder.locked
    folder.lock()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.EIO])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match=r"file system without locks \(No locks available\)"):
        RunFolder(tmp_path / "run").lock()
    assert not RunFolder(tmp_path / "run").in_use()


def test_what_a_killed_process_had_begun_to_write_is_removed(tmp_path: Path, quick: None) -> None:
    values = vae(tmp_path)
    opened(values)[0].unlock()
    ended = FORK.Process(target=time.sleep, args=(0,))
    ended.start()
    ended.join()
    run = tmp_path / "quickstart"
    (run / "samples" / "deep").mkdir()
    left = [run / "tmp-{}-run.json", run / "graph" / "tmp-{}-a.png", run / "samples" / "deep" / "tmp-{}-b"]
    for path in left:
        for number in (ended.pid, os.getppid()):  # a process that goes on may be looking at the run
            Path(str(path).format(number)).write_text("half")
    opened(values)[0].unlock()
    assert {p.name for p in run.rglob("tmp-*")} == {p.name.format(os.getppid()) for p in left}


def test_a_run_that_cannot_be_written_can_be_looked_at(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = vae(tmp_path)
    folder, _ = opened(values)
    assert states.inspect(RunFolder(folder.path)).state == states.RUNNING
    make_read_only(tmp_path, monkeypatch)
    assert states.inspect(RunFolder(folder.path)).state == states.RUNNING
    folder.unlock()
    assert states.inspect(RunFolder(folder.path)).state == states.INTERRUPTED
    with pytest.raises(UserError, match=r"nothing can be written in .*quickstart"):
        opened(values)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_lock_file_that_is_another_users_is_named_and_not_passed_over(tmp_path: Path) -> None:
    """In a folder where everybody may write, its owner could put another file in its place."""
    tmp_path.chmod(0o1777)
    os.chown(tmp_path, 1001, -1)
    lock = tmp_path / ".run.lock"
    lock.touch()
    os.chown(lock, 1000, -1)
    with pytest.raises(UserError, match=rf"{lock} cannot be locked .*uid 1000.*: delete it once no run goes on there"):
        folder_lock.FolderLock(tmp_path / "run").acquire()


def test_two_names_of_one_empty_folder_are_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "INSIDE_SECONDS", 0.1)
    (tmp_path / "disk" / "run").mkdir(parents=True)
    (tmp_path / "other").symlink_to(tmp_path / "disk" / "run")
    first, second = RunFolder(tmp_path / "disk" / "run"), RunFolder(tmp_path / "other")
    first.lock()
    second.lock()  # by its own name, nothing being inside yet
    first.create({"name": "run"}, {})
    with pytest.raises(UserError, match="another process is training"):
        second.create({"name": "run"}, {})
    first.unlock()
    with pytest.raises(UserError, match="another process is training"):
        second.create({"name": "run"}, {})
    second.unlock()
