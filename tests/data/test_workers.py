"""Worker processes end when they should, whatever happens to them, and say why in one line."""

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import get_worker_info

from fluxflow_exp.data.loader import epoch_batches, load_batches
from fluxflow_exp.data.protocols import Sample
from fluxflow_exp.data.sequential import read_lists
from fluxflow_exp.data.shapes import _Drawings
from fluxflow_exp.data.workers import _Context, check_shared_memory
from fluxflow_exp.errors import UserError
from tests.conftest import toy
from tests.helpers.children import CONTEXT, start

SECONDS = 20  # in which a process must have ended


class Numbers:
    """Sample i is the number i; before sample 9 is given, `trouble` is called."""

    groups = None

    def __init__(self, trouble: Callable[[], None]) -> None:
        self.trouble = trouble

    def __len__(self) -> int:
        return 16

    def read(self, index: int, rng: Any) -> Sample:
        if index == 9 and get_worker_info():
            self.trouble()
        return Sample(torch.full((3, 2, 2), index, dtype=torch.uint8), str(index), str(index))


def fail() -> None:
    raise RuntimeError("a decoder's own\nreason")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    Path(f"{os.environ['NOTE']}.{os.getpid()}").touch()
    time.sleep(1000)


def fill_memory() -> None:
    """From now on this process cannot share memory, as in a container with little of it."""

    def full(*arguments: Any) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch>: No space left on device (28)")

    torch.UntypedStorage._share_fd_cpu_ = full  # type: ignore[method-assign, assignment]


def batches(source: Any) -> None:
    for _ in load_batches(
        source, seed=0, batch_size=4, first_update=0, last_update=12, num_workers=2, pin_memory=False
    ):
        pass


def lists(source: Any) -> None:
    for _ in read_lists(source, [[i, i + 1] for i in range(15)], num_workers=2):
        pass


def read(how: Callable[[Any], None], trouble: Callable[[], None], log: Path) -> None:
    os.environ["NOTE"] = str(log)
    try:
        how(Numbers(trouble))
    except UserError as error:
        log.write_text(str(error))
        held.append(error)  # a traceback keeps a loader from being collected, as an interpreter at its end does
        sys.exit(2)


held: list[Exception] = []


KILLED = r"data worker \d \(process \d+\) was killed \(SIGKILL\), as the kernel does when memory runs out: .* lower"


@pytest.mark.parametrize(
    ("how", "trouble", "said"),
    [
        (batches, fail, "a data worker failed: reason"),
        (lists, fail, "a data worker failed: reason"),
        (batches, die, KILLED),
        (batches, fill_memory, r"cannot hand over a batch: .*No space left.*--shm-size"),
    ],
)
def test_trouble_in_a_worker_ends_the_process_with_its_reason(
    tmp_path: Path, how: Callable[[Any], None], trouble: Callable[[], None], said: str
) -> None:
    child = CONTEXT.Process(target=read, args=(how, trouble, tmp_path / "said"))
    child.start()
    assert ended(child) == 2
    assert re.search(said, (tmp_path / "said").read_text()), (tmp_path / "said").read_text()


def ended(child: BaseProcess) -> int | None:
    """Its exit code, None if it hangs."""
    child.join(SECONDS)
    code = child.exitcode
    child.kill()
    return code


def test_workers_die_with_the_process_that_they_read_for(tmp_path: Path) -> None:
    child = CONTEXT.Process(target=read, args=(batches, hang, tmp_path / "note"))
    child.start()
    worker = wait_for(lambda: next(iter(tmp_path.glob("note.*")), None))
    child.kill()
    child.join()
    wait_for(lambda: not running(int(worker.suffix[1:])), seconds=3)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(found: Callable[[], Any], seconds: float = SECONDS) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := found():
            return value
        time.sleep(0.02)
    raise AssertionError("it does not come")


def never_the_fourth_batch(note: str) -> None:
    """Workers get stuck in the fourth update's batch."""
    os.environ["NOTE"] = note
    original = _Drawings.read

    def read(source: Any, index: int, rng: Any) -> Sample:
        if get_worker_info() and index in epoch_batches(source, 8, seed=0, epoch=0)[3]:
            hang()
        return original(source, index, rng)

    _Drawings.read = read  # type: ignore[method-assign]


LONG = ["hardware.num_workers=1", "stage.steps.vae.n_epochs=2", "stage.steps.vae.batch_size=8", "log_every=1"]
LONG += ["evaluation.every_epochs=null", "samples.every_epochs=null", "checkpoint.every_updates=null"]


@pytest.mark.parametrize("signum", [signal.SIGTERM])
def test_a_signal_in_the_wait_for_a_batch_saves_and_ends(tmp_path: Path, signum: int) -> None:
    log = tmp_path / "log"
    child = start(toy(tmp_path, *LONG, stage="vae"), log, partial(never_the_fourth_batch, str(tmp_path / "note")))
    wait_for(lambda: log.exists() and "Batch 3/" in log.read_text())
    os.kill(child.pid or 0, signum)
    assert ended(child) == 128 + signum, log.read_text()
    assert len(list((tmp_path / "vae" / "checkpoints").glob("01-vae-00000003-*.pt"))) == 1


def test_a_worker_without_room_in_shared_memory_is_never_started(monkeypatch: pytest.MonkeyPatch) -> None:
    room = SimpleNamespace(f_bavail=64, f_frsize=2**20)
    monkeypatch.setattr(os, "statvfs", lambda path: room)
    with pytest.raises(UserError, match=r"num_workers=4 keeps up to 17 batches of 4\.2 MB .*\(71 MB\).* 67 MB free.*"
                       r"--shm-size.*num_workers=3$"):  # fmt: skip
        check_shared_memory(4, 2**22)
    check_shared_memory(3, 2**22)


def test_a_second_ctrl_c_while_workers_end_is_heard(tmp_path: Path) -> None:
    """The first one comes when the last batch is done."""
    log = tmp_path / "log"
    child = start(toy(tmp_path, *LONG, stage="vae"), log, twice_at_the_end)
    assert ended(child) not in (0, None)
    assert "COMPLETE" not in log.read_text()


def twice_at_the_end() -> None:
    original = torch.utils.data.dataloader._MultiProcessingDataLoaderIter._shutdown_workers

    def shut_down(loader: Any) -> None:
        if not loader._shutdown:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)
        original(loader)

    torch.utils.data.dataloader._MultiProcessingDataLoaderIter._shutdown_workers = shut_down  # type: ignore[method-assign]


def test_whoever_asks_a_worker_to_end_at_exit_does_not_wait_for_it() -> None:
    """What torch and multiprocessing do with workers that are left."""
    ready = CONTEXT.Event()
    worker = _Context().Process(target=deaf, args=(ready,))
    worker.start()
    assert ready.wait(SECONDS)
    worker._popen.terminate()  # type: ignore[attr-defined]
    worker.join(SECONDS)
    assert worker.exitcode == -signal.SIGKILL


def deaf(ready: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.set()
    time.sleep(1000)
