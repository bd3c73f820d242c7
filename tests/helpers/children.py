"""Training in child processes that can be killed, forked from a server that has torch imported already."""

import multiprocessing
import os
import random
import runpy
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.helpers import file_faults

CONTEXT = multiprocessing.get_context("forkserver")
Fault = Callable[[], None]
"""Something that a child does to the package before it trains: a planted defect, or a kill at a chosen moment."""


def warm_up() -> None:
    """Start the server, which children that the package starts are forked from as well.

    It has the library of tests.helpers.file_faults loaded, where there is a compiler.
    """
    CONTEXT.set_forkserver_preload(
        ["tests.helpers.children", "fluxflow_exp.pipeline", "fluxflow_exp.plot", "tests.helpers.warm"]
    )
    faults = file_faults.library()
    with pytest.MonkeyPatch.context() as patch:
        if faults:
            patch.setenv("LD_PRELOAD", str(faults), prepend=":")
        forkserver.ensure_running()


def start(values: dict[str, Any], log: Path, *faults: Fault) -> BaseProcess:
    child = CONTEXT.Process(target=_train, args=(values, log, faults))
    child.start()
    return child


def start_ranks(values: dict[str, Any], logs: Path, count: int, *faults: Fault) -> list[BaseProcess]:
    """The ranks of one run, as torchrun would start them; each has a log `<logs>.<rank>`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(count):
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        log = logs.with_name(f"{logs.name}.{rank}")
        started.append(CONTEXT.Process(target=_train, args=(values, log, faults, environment)))
        started[-1].start()
    return started


def finish_ranks(values: dict[str, Any], logs: Path, count: int, *faults: Fault) -> list[int | None]:
    """Train with ranks to the end; their exit codes."""
    values["hardware"]["devices"] = count
    ranks = start_ranks(values, logs, count, *faults)
    for process in ranks:
        process.join(120)
    return [process.exitcode for process in ranks]


def finish(values: dict[str, Any], log: Path, *faults: Fault) -> int:
    """Train in a child to its end; its exit code (negative: the signal)."""
    child = start(values, log, *faults)
    child.join(300)
    assert child.exitcode is not None, f"the child hangs; see {log}"
    return child.exitcode


def command(folder: Path, *words: str) -> "CompletedProcess[str]":
    """What `fluxflow-train WORDS…` says and leaves in `folder`; it is spared what a new interpreter imports."""
    with tempfile.TemporaryDirectory() as apart:
        out, err = Path(apart) / "out", Path(apart) / "err"
        child = CONTEXT.Process(target=_command, args=(folder, words, out, err, dict(os.environ)))
        child.start()
        child.join(120)
        if child.exitcode is None:
            child.kill()
        assert child.exitcode is not None, f"the command hangs: {out.read_text()}{err.read_text()}"
        return CompletedProcess(words, child.exitcode, out.read_text(), err.read_text())


class KillDuring:
    """SIGKILL this process in the `count`-th call of a function, before, in the middle of, or after its work."""

    def __init__(self, module: str, name: str, count: int, moment: str = "before") -> None:
        self.module, self.name, self.count, self.moment = module, name, count, moment

    def __call__(self) -> None:
        owner: Any = sys.modules[self.module.partition(":")[0]]
        if ":" in self.module:
            owner = getattr(owner, self.module.partition(":")[2])
        original, calls = getattr(owner, self.name), [0]

        def wrapped(*arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] == self.count and self.moment != "after":
                if self.moment == "torn":
                    arguments[1].write(b"half of a checkpoint")
                    arguments[1].flush()
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*arguments, **options)
            if calls[0] == self.count:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, self.name, wrapped)

    def __repr__(self) -> str:
        return f"{self.moment} {self.name} #{self.count}"


def lively_scaler() -> None:
    """An fp16 scale that doubles at every update until it overflows: losing it changes what is skipped."""
    import torch

    from fluxflow_exp.machine.hardware import Machine

    Machine.scaler = lambda self: torch.amp.GradScaler(  # type: ignore[method-assign]
        "cpu", enabled=self.precision == "fp16", growth_interval=1
    )


class StopAfter:
    """The last rank gets a SIGTERM in a given update: all stop after a save."""

    def __init__(self, update: int) -> None:
        self.update = update

    def __call__(self) -> None:
        from fluxflow_exp.trainers.base import Trainer

        original, calls = Trainer.update, [0]

        def update(trainer: Any, batch: Any) -> Any:
            calls[0] += 1
            if calls[0] == self.update and trainer.ranks.rank == trainer.ranks.count - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(trainer, batch)

        Trainer.update = update  # type: ignore[method-assign]


def moments(n: int, *, seed: int) -> list[KillDuring]:
    """`n` moments to be killed at: in every kind of place at least once, then at random; at the run's end last."""
    rng = random.Random(seed)
    places = [
        ("torch", "save", "torn"),
        ("torch", "save", "after"),
        ("fluxflow_exp.trainers.base:Trainer", "update", "before"),
        ("fluxflow_exp.trainers.base:Trainer", "_log", "after"),
        ("fluxflow_exp.trainers.validation:Validated", "validate", "after"),
        ("fluxflow_exp.models.weights", "publish", "before"),
        ("fluxflow_exp.models.weights", "publish", "after"),
        ("fluxflow_exp.trainers.publish", "finish_step", "before"),
        ("fluxflow_exp.trainers.publish", "finish_step", "after"),
    ]
    chosen = places + [rng.choice(places[:4]) for _ in range(n - 1 - len(places))]
    rng.shuffle(chosen)
    reach = {"update": 3, "_log": 2, "save": 2}
    while_training = [KillDuring(m, f, rng.randint(1, reach.get(f, 1)), moment) for m, f, moment in chosen[: n - 1]]
    return [*while_training, KillDuring("fluxflow_exp.plot", "draw", 1)]


def _train(
    values: dict[str, Any], log: Path, faults: tuple[Fault, ...], environment: dict[str, object] | None = None
) -> None:
    os.environ |= {key: str(value) for key, value in (environment or {}).items()}
    log.parent.mkdir(parents=True, exist_ok=True)
    _say_to(log, 1, 2)
    from fluxflow_exp import pipeline
    from fluxflow_exp.config import published
    from fluxflow_exp.console import fail
    from fluxflow_exp.errors import ToldElsewhere, UserError

    published.allow_all(values)
    for fault in faults:
        fault()
    try:
        pipeline.run(values)
    except ToldElsewhere:
        sys.exit(2)
    except UserError as error:
        fail(list(error.args))
        sys.exit(2)


def _command(folder: Path, words: tuple[str, ...], out: Path, err: Path, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ |= environment
    os.chdir(folder)
    _say_to(out, 1)
    _say_to(err, 2)
    sys.argv = ["fluxflow-train", *words]
    from fluxflow_exp.main import cli

    cli()


def entry_point(module: str, words: list[str], log: Path, *faults: Fault) -> int:
    """What `python -m MODULE WORDS…` ends with; what it says is in `log`."""
    child = CONTEXT.Process(target=_entry_point, args=(module, words, log, faults))
    child.start()
    child.join(120)
    assert child.exitcode is not None, f"{module} hangs; see {log}"
    return child.exitcode


def _entry_point(module: str, words: list[str], log: Path, faults: tuple[Fault, ...]) -> None:
    _say_to(log, 1, 2)
    sys.argv = [module, *words]
    for fault in faults:
        fault()
    runpy.run_module(module, run_name="__main__")


def _say_to(log: Path, *descriptors: int) -> None:
    opened = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for descriptor in descriptors:
        os.dup2(opened, descriptor)
