"""The ranks of a run on this machine, started and watched by the command itself (hardware.devices > 1)."""

import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from fluxflow_exp.errors import ToldElsewhere, UserError
from fluxflow_exp.machine import environment, exits
from fluxflow_exp.machine.preemption import SIGNALS, heard
from fluxflow_exp.monitor.start_up import StartUp

SECONDS_TO_END = 30  # for the other ranks, after one has ended by an error


def run_ranks(values: dict[str, Any], *, swept: str, count: int, start_up: StartUp | None = None) -> int:
    """Train with `count` ranks; the exit code of the first one to end by an error, or 0.

    Signals go on to the first rank, which stops all of them; ranks die with this process. UserError: one was killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fluxflow_exp.pipeline"])
    port = _free_port()
    ranks = [
        context.Process(target=_rank, args=(rank, count, port, values, swept, start_up), name=f"rank {rank}")
        for rank in range(count)
    ]
    for process in ranks:
        process.start()

    def pass_on(signum: int, frame: FrameType | None) -> None:
        if ranks[0].pid and ranks[0].is_alive():
            os.kill(ranks[0].pid, signum)

    previous = {signum: signal.signal(signum, pass_on) for signum in heard()}
    try:
        return _until_all_end(ranks)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _until_all_end(ranks: Sequence[BaseProcess]) -> int:
    code, alive, first = 0, list(ranks), ""
    while alive:
        ended = wait([process.sentinel for process in alive], timeout=SECONDS_TO_END if code else None)
        if not ended:  # they had their time
            for process in alive:
                process.kill()
        for process in [p for p in alive if p.sentinel in ended]:
            process.join()
            alive.remove(process)
            first = first if code else process.name
            code = code or process.exitcode or 0
    if code < 0 and -code not in SIGNALS:
        raise UserError(exits.told(first, code))
    return code if code >= 0 else 128 - code


def _rank(
    rank: int, count: int, port: int, values: dict[str, Any], swept: str, start_up: StartUp | None = None
) -> None:
    environment.settle()
    os.setpgrp()  # a Ctrl-C reaches the ranks through the command alone, once
    die_with_parent()
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    from fluxflow_exp import pipeline
    from fluxflow_exp.config import published
    from fluxflow_exp.console import fail

    published.allow_all(values)  # the command that starts this rank has looked at them
    try:
        pipeline.run(values, swept=swept, start_up=start_up)
    except ToldElsewhere:
        raise SystemExit(2) from None
    except UserError as error:
        fail([str(error)])
        raise SystemExit(2) from None
    except KeyboardInterrupt:  # a second Ctrl-C
        raise SystemExit(130) from None


def die_with_parent() -> None:
    """End this process as soon as the one that asked for it is gone (a server stands between the two)."""
    parent = multiprocessing.parent_process()
    assert parent

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
