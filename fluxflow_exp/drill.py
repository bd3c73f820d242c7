"""`python -m fluxflow_exp.drill OVERRIDES… --kills 10`: proof that a configuration survives interruptions.

It is trained twice: left in peace, and killed again and again. Both must end with the same bytes.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import re
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rich.progress import Progress

from fluxflow_exp import files
from fluxflow_exp.config import overrides
from fluxflow_exp.console import fail
from fluxflow_exp.errors import UserError, counted
from fluxflow_exp.machine import clock, environment
from fluxflow_exp.machine.spawn import die_with_parent
from fluxflow_exp.run import failures
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import row_every

WAYS = ("SIGKILL", "SIGTERM", "SIGUSR2", "SIGKILL in a save", "SIGHUP")
WAIT_SECONDS = 3600.0
SHOWN = 10
LINE = re.compile(r"Step (\S+) \(\d+/\d+\) \| Epoch (\d+)/\d+ \| Batch (\d+)/(\d+)")

Fault = Callable[[], None]
"""Done to the package in each process before it trains; tests plant defects with it."""


@dataclass
class Life:
    """One process of the killed run."""

    way: str
    seconds: float  # that it trained
    restart: float  # from its start to its first line of training
    lost: float  # seconds of training since the last save
    in_save: bool  # a half-written checkpoint was left


@dataclass
class Drill:
    """Two runs of `values` below `folder`, one of them killed `kills` times."""

    values: dict[str, Any]
    folder: Path
    kills: int
    seed: int = 0
    faults: Sequence[Fault] = ()
    lives: list[Life] = field(default_factory=list)
    updates: dict[str, int] = field(default_factory=dict)  # of each step

    def run(self) -> dict[str, Any]:
        """The certificate. UserError: a run ended by itself, or before it was killed often enough."""
        rng = random.Random(self.seed)
        with Progress() as bar:
            task = bar.add_task("undisturbed", total=self.kills + 2)
            peace = self._live("undisturbed")
            bar.update(task, advance=1, description="killed 0 times")
            steps = RunFolder(self.folder / "undisturbed").read_record()["steps"]
            self.updates = {name: entry["updates"] for name, entry in steps.items()}
            total = sum(self.updates.values())
            every = row_every(self.values["log_every"], min(self.updates.values()))
            between_lines = sum(entry["seconds"] for entry in steps.values()) / total * every
            for index in range(self.kills):  # one in each equal part of the run
                at, delay = total * (index + rng.random()) / (self.kills + 1), rng.random() * between_lines
                self.lives.append(self._live("killed", WAYS[index % len(WAYS)], at, delay))
                bar.update(task, advance=1, description=f"killed {counted(index + 1, 'time')}")
            self._live("killed")
            bar.update(task, advance=1, description="comparing")
        return self._certify(peace)

    def _certify(self, peace: Life) -> dict[str, Any]:
        from fluxflow_exp.run import diff  # torch, which --help does without

        first, second = self.folder / "undisturbed", self.folder / "killed"
        found, counts = diff.differences(first, second)
        lost, restarts = [life.lost for life in self.lives], [life.restart for life in self.lives]
        record = RunFolder(second).read_record()
        certificate = {
            "passed": not found,
            "date": clock.date(),
            "configuration": hashlib.sha256(json.dumps(self.values, sort_keys=True).encode()).hexdigest()[:16],
            "commit": record["commit"],
            "changed_code": record["changed_code"],
            "made_with": record["made_with"],
            "seed": self.seed,
            "kills": {way: sum(life.way == way for life in self.lives) for way in WAYS},
            "half_written_checkpoints": sum(life.in_save for life in self.lives),
            "compared": counts,
            "differences": found,
            "undisturbed_seconds": round(peace.seconds, 3),
            "lost_seconds": {"total": round(sum(lost), 3), "largest": round(max(lost), 3)},
            "restart_seconds": {
                "median": round(statistics.median(restarts), 3),
                "largest": round(max(restarts), 3),
            },
        }
        files.write_json(second / "certificate.json", certificate)
        return certificate

    def _live(self, name: str, way: str | None = None, at: float = 0.0, delay: float = 0.0) -> Life:
        """Train in a process of its own: to the end, or until it is killed `delay` seconds after update `at` of all."""
        life = _Process({**self.values, "name": f"{self.folder.name}/{name}"}, self.folder / f"{name}.log", self.faults)
        trained = life.wait(lambda said: "PIPELINE STEP" in said, "begin to train")
        restart = trained - life.started
        if way is None:
            life.child.join()
            if life.child.exitcode != 0:
                raise UserError(f"the {name} run ended with exit code {life.child.exitcode}; see {life.log}")
            return Life("", time.monotonic() - trained, restart, 0.0, False)
        life.wait(lambda said: self._position(said) >= at, "go on")
        life.child.join(delay)
        checkpoints = self.folder / name / "checkpoints"
        if way.endswith("in a save"):
            _wait_for_save(life.child, checkpoints)
        code, killed, now = life.kill(getattr(signal, way.split()[0])), time.monotonic(), time.time()
        if code == 0:
            raise UserError(
                f"the run ended before kill {len(self.lives) + 1} of {self.kills}: lengthen it, log or save more often "
                "(log_every, checkpoint.every_updates), or ask for fewer"
            )
        saved = max((p.stat().st_mtime for p in checkpoints.glob("*.pt")), default=0.0)
        lost = min(now - saved, killed - trained) if way.startswith("SIGKILL") else 0.0
        return Life(way, killed - trained, restart, max(lost, 0.0), any(checkpoints.glob("tmp-*")))

    def _position(self, said: str) -> int:
        """The last update, of all steps, that a process has told of."""
        lines = LINE.findall(said)
        if not lines:
            return 0
        step, epoch, batch, per_epoch = lines[-1]
        names = list(self.updates)
        before = sum(self.updates[name] for name in names[: names.index(step)])
        return before + (int(epoch) - 1) * int(per_epoch) + int(batch)


class _Process:
    """A training process with a log that is read from where it began to write."""

    def __init__(self, values: dict[str, Any], log: Path, faults: Sequence[Fault]) -> None:
        self.log, self.began = log, log.stat().st_size if log.exists() else 0
        self.started = time.monotonic()
        self.child = _start(values, log, faults)

    def wait(self, reached: Callable[[str], bool], what: str) -> float:
        """When the log says so, or the process has ended well (time.monotonic). UserError: it has not, or badly."""
        until = time.monotonic() + WAIT_SECONDS
        while self.child.exitcode is None:
            if self.log.exists() and reached(self.log.read_bytes()[self.began :].decode(errors="replace")):
                return time.monotonic()
            if time.monotonic() > until:
                self.child.kill()
                raise UserError(f"the run did not {what} within {WAIT_SECONDS:.0f} s; see {self.log}")
            time.sleep(0.005)
        if self.child.exitcode:
            raise UserError(f"the run ended by itself with exit code {self.child.exitcode}; see {self.log}")
        return time.monotonic()

    def kill(self, signum: int) -> int:
        """The exit code; 0 if the process had ended before."""
        if self.child.exitcode is None and self.child.pid:
            os.kill(self.child.pid, signum)
        self.child.join()
        assert self.child.exitcode is not None
        if self.child.exitcode not in (0, -signum, 128 + signum):
            raise UserError(f"the run ended by itself with exit code {self.child.exitcode}; see {self.log}")
        return self.child.exitcode


def _start(values: dict[str, Any], log: Path, faults: Sequence[Fault]) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fluxflow_exp.pipeline", "fluxflow_exp.main"])
    child = context.Process(target=_train, args=(values, log, tuple(faults)))
    child.start()
    return child


def _train(values: dict[str, Any], log: Path, faults: tuple[Fault, ...]) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    environment.settle()
    die_with_parent()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup a drill is not to be hung up, but its runs are
    from fluxflow_exp.main import train

    for fault in faults:
        fault()
    try:
        train(values)
    except UserError as error:
        fail(list(error.args))
        raise SystemExit(2) from None


def _wait_for_save(child: BaseProcess, checkpoints: Path) -> None:
    """Until a checkpoint is half written, or the process has ended."""
    while child.exitcode is None:
        if checkpoints.is_dir() and any(name.startswith("tmp-") for name in os.listdir(checkpoints)):
            return
        time.sleep(0.0005)


def _prepare(words: list[str], config_dir: str | None) -> dict[str, Any]:
    """The configuration of a drill. UserError: what is wrong with it."""
    from fluxflow_exp.preflight import check  # torch, which --help does without

    values = overrides.values_of(words, config_dir=config_dir)
    if "minutes" in values or any("minutes" in step for step in values["stage"]["steps"].values()):
        raise UserError("the drill compares two runs of as many updates: give n_epochs or max_updates, not minutes")
    wrong = check.problems(values)
    if wrong:
        raise UserError(*wrong)
    exact = values["hardware"]["exact"]
    if exact is False or (exact is None and values["hardware"]["device"] != "cpu" and _cuda()):
        raise UserError("a drill compares bytes: set hardware.exact=true")
    tracking = {**values["tracking"], "mode": "off"}
    checkpoint = {**values["checkpoint"], "mirror": None}
    return {**values, "tracking": tracking, "checkpoint": checkpoint, "resume": "auto", "validate": False}


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _print(certificate: dict[str, Any], folder: Path) -> None:
    kills, lost, restart = certificate["kills"], certificate["lost_seconds"], certificate["restart_seconds"]
    print(f"Killed {counted(sum(kills.values()), 'time')}: {', '.join(f'{n} {way}' for way, n in kills.items() if n)}")
    print(f"  half-written checkpoints left behind: {certificate['half_written_checkpoints']}")
    whole = certificate["undisturbed_seconds"]
    print(f"  training lost: {lost['total']:.1f} s of {whole:.1f} s, at most {lost['largest']:.1f} s a kill")
    print(f"  from start to training: {restart['median']:.1f} s (median), without the interpreter's imports")
    print(f"  compared: {', '.join(f'{n} {kind}' for kind, n in certificate['compared'].items())}")
    found = certificate["differences"]
    print("PASSED: the same bytes" if certificate["passed"] else f"FAILED: {len(found)} differences")
    for line in found[:SHOWN]:
        print(f"  {line}")
    print(f"Certificate: {folder / 'killed' / 'certificate.json'}")


@failures.command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.drill",
        description="Train a configuration twice, undisturbed and killed at random moments (SIGKILL, SIGTERM, SIGHUP, "
        "SIGUSR2, and SIGKILL in a save), compare every tensor, metric row and picture, and write a certificate.",
        epilog="Exit code: 0 the same bytes, 1 differences, 2 it could not be tried. Both runs stay in "
        "OUTPUT_ROOT/NAME-drill, a former one is moved aside.",
    )
    parser.add_argument("overrides", nargs="*", help="as for python -m fluxflow_exp")
    parser.add_argument("--kills", type=int, default=10, help="how often to kill (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--config-dir", help="a folder of your own groups")
    options = parser.parse_intermixed_args(arguments)
    values = _prepare(options.overrides, options.config_dir)
    if options.kills < 1:
        raise UserError(f"--kills must be at least 1, not {options.kills}")
    folder = Path(values["output_root"]).expanduser() / f"{values['name']}-drill"
    held = RunFolder(folder)
    held.lock()  # beside it, so that no other drill moves it aside
    if folder.exists():
        print(f"The former drill was moved to {held.move_aside()}")
    certificate = Drill(values, folder, options.kills, options.seed).run()
    _print(certificate, folder)
    return 0 if certificate["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
