"""The costs of a study's arms before any of them is trained: side by side, for GPUs that are paid for wait meanwhile.

Each is kept as soon as it is known, so that the same command goes on after a kill.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from fluxflow_exp.config import published
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import cores, environment, memory
from fluxflow_exp.machine.spawn import die_with_parent
from fluxflow_exp.study import cost
from fluxflow_exp.study.cost import ArmCost
from fluxflow_exp.study.kept import Kept
from fluxflow_exp.study.runs import Run

BYTES_EACH = 2 * 2**30  # 0.9 GiB for an arm of the shipped recipe; lists of large data sets take more


class _Child(NamedTuple):
    run: Run
    process: BaseProcess
    answer: Connection


def made(runs: dict[str, Run], kept: Kept) -> dict[str, ArmCost]:
    """Arm → what a run of it costs; one that `kept` has not yet is predicted.

    Updates that are timed on this machine's CPU have it to themselves, one arm after the other; those of GPUs are
    rehearsed in processes of their own. UserError: an arm's data cannot be opened, or memory ran out.
    """
    from fluxflow_exp.machine.hardware import trains_on_cpu  # torch

    lacking = [run for arm, run in runs.items() if kept.get(_name(arm), run.values) is None]
    timed = [run for run in lacking if trains_on_cpu(run.values["hardware"]["device"])]
    for run in timed:
        print(f"Predicting the cost of {run.arm} …", flush=True)
        with _named(run):
            kept.put(_name(run.arm), run.values, asdict(cost.predict(run.values)))
    _rehearse([run for run in lacking if run not in timed], kept)
    return known(runs, kept)


def known(runs: dict[str, Run], kept: Kept) -> dict[str, ArmCost]:
    """The same of the arms that `kept` has."""
    found = {arm: kept.get(_name(arm), run.values) for arm, run in runs.items()}
    return {arm: ArmCost(**each) for arm, each in found.items() if each is not None}


def _name(arm: str) -> str:
    return f"cost {arm}"


@contextmanager
def _named(run: Run) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(*(f"arm {run.arm}: {line}" for line in error.args)) from error


def _rehearse(runs: Sequence[Run], kept: Kept) -> None:
    """Predict `runs` in processes, as many at a time as cores and memory hold; an error ends all."""
    waiting, running, known = deque(runs), dict[Connection, _Child](), 0
    room = at_once()
    try:
        while waiting or running:
            while waiting and len(running) < room:
                child = _started(waiting.popleft())
                running[child.answer] = child
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                run = running[ready].run
                with _named(run):
                    kept.put(_name(run.arm), run.values, _received(running[ready]))
                del running[ready]
                known += 1
                print(f"The cost of {run.arm} is predicted: {known} of {len(runs)}", flush=True)
    finally:
        for child in running.values():
            child.process.kill()
        for child in running.values():
            child.process.join()


def at_once() -> int:
    """How many arms are rehearsed at a time."""
    return max(min(cores.usable(), memory.usable() // BYTES_EACH), 1)


def _started(run: Run) -> _Child:
    print(f"Predicting the cost of {run.arm} …", flush=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fluxflow_exp.pipeline"])
    # A process that sees no GPU would take auto for its CPU, and time updates there.
    values = {**run.values, "hardware": {**run.values["hardware"], "device": "cuda"}}
    answer, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(values, sender), name=run.arm)
    process.start()
    sender.close()
    return _Child(run, process, answer)


def _answer(values: dict[str, Any], sender: Connection) -> None:
    """The life of a process: send the cost, or the error that a user can put right."""
    environment.settle()
    os.setpgrp()  # a Ctrl-C reaches it through the command alone
    die_with_parent()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a context there takes time and memory, and nothing would use it
    import torch

    torch.set_num_threads(1)
    published.allow_all(values)  # the command that starts it has looked at them
    try:
        sender.send(asdict(cost.predict(values)))
    except (UserError, OSError) as error:
        sender.send(error)


def _received(child: _Child) -> dict[str, Any]:
    """What `child` sent. UserError: it was killed; its own errors are raised again."""
    try:
        found: dict[str, Any] | Exception = child.answer.recv()
    except EOFError:
        child.process.join()
        code = child.process.exitcode or 0
        if code < 0:
            raise UserError(
                f"the process that predicts its cost was ended by signal {-code}, as the kernel does when memory runs "
                "out: free memory, and the same command goes on"
            ) from None
        raise RuntimeError(f"the cost of {child.run.arm} was not predicted: its error is said above") from None
    child.process.join()
    if isinstance(found, Exception):
        raise found
    return found
