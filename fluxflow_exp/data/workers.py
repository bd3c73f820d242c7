"""Processes that read data for one that waits: none of them outlives it, and none can make it wait for ever.

torch ends its workers by SIGTERM and then waits for them without end; but these ignore SIGTERM, since schedulers send
it to every process of a job and the training process still needs its batches. What torch's queue cannot send, it drops
with a traceback, and the batch never comes.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.popen_fork import Popen
from multiprocessing.queues import Queue
from types import FrameType
from typing import Any

import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, get_worker_info

from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import exits
from fluxflow_exp.machine.exits import FEWER, LARGER, SHARED_MEMORY
from fluxflow_exp.machine.preemption import SIGNALS, Interrupted

PREFETCH = 4  # batches a worker keeps ready
SECONDS_TO_END = 1.0  # for workers that are asked to; then they are killed
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


@contextmanager
def reading(*, num_workers: int, batch_bytes: int = 0, **how: Any) -> Iterator[Iterator[Any]]:
    """The items of a torch DataLoader made with `how`, read by `num_workers` processes, or by this one for 0.

    `batch_bytes`: of a batch in shared memory, of all processes that read at the same time; 0: not known.
    UserError: shared memory is too small for them; or a worker failed, or died, while this process waited.
    """
    if not num_workers:
        yield iter(DataLoader(**how))
        return
    check_shared_memory(num_workers, batch_bytes)
    context = _Context()
    how |= {"num_workers": num_workers, "prefetch_factor": PREFETCH, "worker_init_fn": partial(_start, os.getpid())}
    if sys.platform == "linux":
        # Ranks were started by a server, and torch would start their workers by one as well: each would import torch.
        how["multiprocessing_context"] = context
    batches: Any = None
    here = threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGCHLD)
    watch = _WorkerWatch(context.workers)
    try:
        batches = iter(DataLoader(**how))
        if here:  # torch's own handler raises wherever the process is, in the middle of a save as well
            signal.signal(signal.SIGCHLD, watch.child_ended)
        yield watch.over(batches)
    finally:
        if here:
            signal.signal(signal.SIGCHLD, previous or signal.SIG_DFL)
        _end(batches, context.workers)


def check_shared_memory(num_workers: int, batch_bytes: int) -> None:
    """UserError: the batches that `num_workers` keep ready do not fit into shared memory."""
    if sys.platform != "linux" or not os.path.isdir(SHARED_MEMORY):
        return
    found = os.statvfs(SHARED_MEMORY)
    free, ready = found.f_bavail * found.f_frsize, num_workers * PREFETCH + 1  # one more is in use
    if ready * batch_bytes <= free:
        return
    fitting = max(free // batch_bytes - 1, 0) // PREFETCH
    raise UserError(
        f"hardware.num_workers={num_workers} keeps up to {ready} batches of {batch_bytes / 1e6:,.1f} MB in shared "
        f"memory ({ready * batch_bytes / 1e6:,.0f} MB), and {SHARED_MEMORY} has {free / 1e6:,.0f} MB free: {LARGER}, "
        f"or set hardware.num_workers={fitting}"
    )


class _WorkerWatch:
    """Ends the wait for a batch when it cannot come."""

    def __init__(self, workers: list["_Worker"]) -> None:
        self.workers, self.waits = workers, False

    def over(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Pass `batches` on. UserError: a worker failed or died."""
        while True:
            self.waits = True
            try:
                self.look()
                batch = next(batches)
            except StopIteration:
                return
            except UserError as error:  # it comes with the worker's traceback around its message
                raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None
            except Interrupted:
                raise
            except Exception as error:
                if "in DataLoader worker process" not in str(error):  # not told by one, so one may be about to be gone
                    self._wait_for_death()
                self.look()
                reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
                raise UserError(f"a data worker failed: {reason}") from error
            finally:
                self.waits = False
            yield batch

    def child_ended(self, signum: int, frame: FrameType | None) -> None:
        # A worker that dies while it sends leaves half a message, which torch would wait for without end.
        if self.waits:
            self.look()

    def _wait_for_death(self) -> None:
        """Until a worker that has closed its connections is dead as well; a second at most."""
        gone = wait([worker.sentinel for worker in self.workers], timeout=1)
        for worker in self.workers:
            if worker.sentinel in gone:
                worker.join(1)

    def look(self) -> None:
        """UserError: a worker is dead."""
        for number, worker in enumerate(self.workers):
            if worker.exitcode:
                raise UserError(exits.told(f"data worker {number} (process {worker.pid})", worker.exitcode))


def _start(parent: int, worker: int) -> None:
    """Begin the life of a worker."""
    for signum in SIGNALS:  # the training process answers them, and a worker that died would fail the save
        signal.signal(signum, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
    torch.set_num_threads(1)


def _end(batches: Any, workers: list["_Worker"]) -> None:
    """End the workers, whatever they are doing. Never called by a destructor, where a Ctrl-C would be swallowed."""
    try:
        if batches is not None:
            # A thread: torch waits without end for one of its own, which may wait for a message of a dead worker.
            ending = threading.Thread(target=batches._shutdown_workers, daemon=True)
            ending.start()
            ending.join(SECONDS_TO_END)
    finally:
        for worker in workers:
            if worker.pid:
                worker.kill()
                worker.join()


class _Killed(Popen):
    def terminate(self) -> None:
        self.kill()  # torch and multiprocessing ask this way at exit, and wait


class _Worker(ForkProcess):
    @staticmethod
    def _Popen(process: Any) -> Popen:
        return _Killed(process)


class _Queue(Queue):  # type: ignore[type-arg]
    def __init__(self, size: int, *, ctx: Any) -> None:
        super().__init__(size, ctx=ctx)
        self.cancel_join_thread()  # in this process: at its exit nobody reads any more

    def _on_queue_feeder_error(self, error: Exception, item: Any) -> None:
        """Called by the thread that sends, for what it cannot send."""
        if get_worker_info() is None:
            return
        said = UserError(
            f"a data worker cannot hand over a batch: {error}. If {SHARED_MEMORY} is full, {LARGER}; otherwise {FEWER}"
        )
        wrapped: Any = ExceptionWrapper  # without types
        self.put((item[0], wrapped((UserError, said, None), where="in a data worker")))


class _Context(ForkContext):
    """Forked workers that can be ended."""

    def __init__(self) -> None:
        self.workers: list[_Worker] = []

    def Process(self, *arguments: Any, **options: Any) -> _Worker:  # type: ignore[override]
        self.workers.append(_Worker(*arguments, **options))
        return self.workers[-1]

    def Queue(self, maxsize: int = 0) -> Any:
        return _Queue(maxsize, ctx=self)
