"""Data parallelism: which rank this process is, and what the ranks of a run tell each other.

Every rank walks through the same program on its share of each batch. Gradients are summed once an update
(gradient_buckets.py), so that there is no wrapper around a model; decisions (stop, save, a transition) are agreed on.
Only the first rank writes, but for the pictures that others draw.
"""

import os
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import TCPStore

from fluxflow_exp.errors import UserError
from fluxflow_exp.machine.exits import CONTINUES, GRACE_SECONDS

PATIENCE = timedelta(hours=2)  # the first rank may measure, fill caches or save for long while the others wait
OUTLAST_SECONDS = 60.0
GONE = re.compile("gloo|nccl|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)  # what torch says of it
GONE_SILENTLY = f"ended without a word, as a killed process does (the kernel's log tells). {CONTINUES}"

Value = TypeVar("Value")


@dataclass
class Ranks:
    """The ranks of a run; alone by default, where everything below is the identity."""

    rank: int = 0
    count: int = 1
    local: int = 0  # among those of this machine
    control: Any = None  # gloo group for values on the CPU: it costs no wait for the GPU
    peers: "PeerMonitor | None" = field(default=None, repr=False)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """This rank's rows of a global batch."""
        each = batch_size // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place; the same bytes on every rank."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over ranks, in place."""
        return self.sum(tensor) / self.count

    def largest(self, values: list[int]) -> list[int]:
        """The maximum over ranks of each value."""
        if self.count == 1:
            return values
        tensor = torch.tensor(values)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.control)
        return [int(v) for v in tensor]

    def from_first(self, value: Value) -> Value:
        """Return what the first rank has."""
        if self.count == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0, group=self.control)
        return held[0]

    def gather(self, values: list[Value]) -> list[Value]:
        """Every rank's list, one after the other."""
        if self.count == 1:
            return values
        held: list[Any] = [None] * self.count
        dist.all_gather_object(held, values, group=self.control)
        return [value for part in held for value in part]

    def to_first(self, value: Value) -> list[Value]:
        """What every rank has, in order, on the first; on the others nothing."""
        if self.count == 1:
            return [value]
        held: list[Any] | None = [None] * self.count if self.first else None
        dist.gather_object(value, held, dst=0, group=self.control)
        return held or []

    def meet(self) -> None:
        """Wait until every rank is here."""
        if self.count > 1:
            dist.barrier(group=self.control)

    def fail(self, error: Exception, message: str) -> str | None:
        """Tell the other ranks that this one ends by `error`, in words; those of another one that was first to, if any.

        An error that says only that another rank is gone is not this one's.
        """
        if self.peers is None:
            return None
        gone = isinstance(error, RuntimeError) and GONE.search(str(error))
        said = f"another rank {GONE_SILENTLY}" if gone else None
        mine = f"rank {self.rank}: {said or message}"
        first = self.peers.fail(mine)
        return said if first in (None, mine) else first

    def tells(self, cause: str | None) -> bool:
        """Whether this rank says what ends the run: on each machine one does. An error without a `cause` in another
        rank that could not be told to the others is said, too."""
        return self.local == 0 or (cause is None and self.peers is not None and self.peers.lost)

    def outlive_others(self) -> None:
        """Give the other ranks the time to hear of it."""
        if self.peers and self.first:
            self.peers.outlive_others()

    def leave(self) -> None:
        """The end of a run that every rank has reached, well or by a signal."""
        if self.count > 1:
            self.meet()
            assert self.peers
            self.peers.stop()
            dist.destroy_process_group()


def start_ranks(device: torch.device, devices: int) -> Ranks:
    """Join the other ranks that a launcher has started beside this process; alone if it has started none.

    UserError: there are not as many as `hardware.devices` says.
    """
    _export_submitit()
    count = int(os.environ.get("WORLD_SIZE", "1"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(count)))
    if here != devices:
        raise UserError(
            f"{here} rank{'s were' if here > 1 else ' was'} started on this machine, but hardware.devices={devices}: "
            f"set hardware.devices={here}"
        )
    if count == 1:
        return Ranks()
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    own = device if device.type == "cuda" else None
    dist.init_process_group("nccl" if own else "gloo", timeout=PATIENCE, device_id=own)
    ranks = Ranks(rank, count, local, dist.new_group(backend="gloo", timeout=PATIENCE))
    ranks.peers = PeerMonitor(ranks)
    return ranks


def local_rank() -> int:
    """This process's number among those of this machine, before the ranks are joined."""
    _export_submitit()
    return int(os.environ.get("LOCAL_RANK", "0"))


def started() -> bool:
    """Whether a launcher (torchrun, SLURM, this program) has made this process a rank."""
    _export_submitit()
    return "RANK" in os.environ


def with_started_nodes(values: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with as many nodes as a launcher has started.

    UserError: it asks for several, and nothing has started them.
    """
    slurm, nodes = values["hardware"]["slurm"], 1
    if started():
        count = int(os.environ.get("WORLD_SIZE", "1"))
        nodes = max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", str(count))))
    elif slurm["nodes"] > 1:
        raise UserError(
            f"hardware.slurm.nodes={slurm['nodes']} needs a command that starts processes on {slurm['nodes']} nodes: "
            "-m hydra/launcher=slurm, or torchrun; on this machine alone set hardware.slurm.nodes=1"
        )
    return {**values, "hardware": {**values["hardware"], "slurm": {**slurm, "nodes": nodes}}}


def _export_submitit() -> None:
    """Several tasks of a submitit job are ranks: give them the variables that torchrun would."""
    if "RANK" in os.environ or "SUBMITIT_EXECUTOR" not in os.environ:
        return
    import submitit

    if submitit.JobEnvironment().num_tasks > 1:
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)


class PeerMonitor:
    """Ends this process when another rank has failed, so that none waits for ever in an exchange.

    The first rank hosts a store; a failing rank puts its message there, and a thread of every other one looks twice
    a second. Of the ranks of a machine the first one says it.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.failing = False
        self.lost = False  # the first rank is gone without a word, and the store with it
        self.on_failure: Callable[[str], None] = lambda message: None  # what the first rank does before it ends
        host = os.environ["MASTER_ADDR"]
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False) if ranks.first else None
        port = ranks.from_first(store.port if store else 0)
        self._store: Any = store or TCPStore(host, port, is_master=False, wait_for_workers=False)
        self._done = threading.Event()
        self._heard: str | None = None  # the message of the rank that was first to fail
        threading.Thread(target=self._look, daemon=True).start()

    def fail(self, message: str) -> str | None:
        """Put `message` there, unless another rank was first; whose is there now, or None if the store is gone."""
        self.failing = True
        with suppress(RuntimeError):
            if self._heard is None:
                self._hear(self._store.compare_set("failed", "", message).decode())
        self._lose()
        return None if self.lost else self._heard

    def outlive_others(self) -> None:
        """Of the first rank: wait until no other one needs its store any more."""
        until, others = time.monotonic() + GRACE_SECONDS, [f"heard by {rank}" for rank in range(1, self.ranks.count)]
        while not self._store.check(others) and time.monotonic() < until:
            self._done.wait(0.1)

    def stop(self) -> None:
        self._done.set()

    def outlast_first(self) -> None:
        """Wait until the first rank's process, and its store with it, is gone."""
        until = time.monotonic() + OUTLAST_SECONDS
        with suppress(RuntimeError):
            while time.monotonic() < until:
                self._store.check(["failed"])
                time.sleep(0.2)

    def _look(self) -> None:
        while self._heard is None:
            if self._done.wait(0.5):
                return
            try:
                if self._heard is None and self._store.check(["failed"]):
                    self._hear(self._store.get("failed").decode())
            except (RuntimeError, OSError):
                self._lose()
        self._done.wait(GRACE_SECONDS)
        if self.failing or self._done.is_set():
            return
        if self.ranks.local == 0:
            _say(self._heard)
        if self.ranks.first:
            with suppress(OSError):  # the process ends, whatever its disk says
                self.on_failure(self._heard)
        os._exit(1)

    def _hear(self, message: str) -> None:
        self._heard = message
        self._store.set(f"heard by {self.ranks.rank}", "")  # the last time that it is asked

    def _lose(self) -> None:
        """The store has not answered."""
        if self._heard is None and not self._done.is_set():
            self._heard, self.lost = f"the first rank {GONE_SILENTLY}", True
            if self.ranks.rank == 1:
                _say(self._heard)


def _say(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
