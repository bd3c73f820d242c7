"""The console of a run: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console as Terminal
from rich.console import RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from fluxflow_exp.errors import plural
from fluxflow_exp.files import naming
from fluxflow_exp.monitor.metrics import ON_CONSOLE

if TYPE_CHECKING:
    from fluxflow_exp.step_length import Length

Part = TypeVar("Part")

RULE = "=" * 80
FRESH = "resume=fresh"
LINE_SECONDS = 60.0  # between lines about long work where there is no bar


class StepBar(Progress):
    """Where a step is, a bar, and when it will end; below it the losses, so that 80 columns cut nothing."""

    def __init__(self, terminal: Terminal) -> None:
        self.losses = "the first update is under way; on a GPU it compiles for about a minute"
        columns = (TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[eta]}"))
        super().__init__(*columns, console=terminal, expand=True)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.losses, overflow="fold")


class Console:
    """Says things on the terminal, and from `log_to` on in a file as well; `quiet` for all ranks but the first."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._terminal = Terminal(highlight=False, soft_wrap=True)
        self._bar: StepBar | None = None
        self._quiet, self._early = quiet, ""
        self._log: Path | None = None
        self._step = ""  # its name and place among the others
        self._rows = 0  # shown of it

    @property
    def logs(self) -> bool:
        return self._log is not None

    def log_to(self, path: Path) -> None:
        """Keep a copy in `path`, what was said so far as well."""
        self._log = path
        self.log(f"--- {datetime.now().astimezone().isoformat(timespec='seconds')} {self._early}".rstrip())

    def log(self, text: str) -> None:
        if self._log is None:
            self._early += f"\n{text}"
            return
        with naming(self._log), self._log.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def say(self, text: str) -> None:
        if self._quiet:
            return
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)
        self.log(text)  # last: where the disk does not take it, it has been said all the same

    def open_step(self, name: str, length: Length, *, index: int, steps: int, description: str) -> None:
        """Say what begins; `index` (from 1) is the step's among the run's `steps`."""
        self._step = f"{name} ({index}/{steps})"
        self.say(f"\nPIPELINE STEP {index}/{steps}: {name}")
        if description:
            self.say(f"Description: {description}")
        epochs = length.updates / length.updates_per_epoch
        shown = f"{epochs:.0f}" if epochs >= 100 else f"{epochs:.3g}"  # which would be 1.5e+03
        updates = f"{length.updates} {plural(length.updates, 'update')}"
        self.say(f"Duration: {shown} epoch{'s' if epochs > 1 else ''}, {updates}\n{RULE}")
        self._rows = 0
        if self._terminal.is_terminal and not self._quiet:
            self._bar = StepBar(self._terminal)
            self._task = self._bar.add_task(self._step, total=None, eta="")
            self._bar.start()

    def close_step(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None

    def advance(self, length: Length, update: int) -> None:
        """Move the bar on, if there is one."""
        if self._bar:
            self._bar.update(self._task, completed=update, total=length.updates)

    def progress(
        self, length: Length, update: int, metrics: dict[str, float], seconds: float, per_batch: float, *, left: float
    ) -> None:
        """The line of FluxFlow's form; `seconds` is the step's training time, `per_batch` that of a recent update.

        From the second one of a step on, with the time that the rest takes, evaluation, pictures and saves included,
        which is `left`: the first update holds what is compiled.
        """
        if self._quiet:
            return
        epochs = -(-length.updates // length.updates_per_epoch)
        place = f"Epoch {length.epoch(update)}/{epochs} | Batch {length.batch(update)}/{length.updates_per_epoch}"
        losses = [
            *(f"{label}: {metrics[name]:.4f}" for name, label in ON_CONSOLE.items() if name in metrics),
            f"{per_batch:.2f}s/batch" if per_batch >= 0.1 else f"{per_batch:.3f}s/batch",
        ]
        self._rows += 1
        eta = [f"ETA {_clock(left)}"] if self._rows > 1 else []
        line = " | ".join([f"[{_clock(seconds)}] Step {self._step}", place, *losses, *eta])
        if self._bar:
            self.log(line)
            self._bar.losses = " | ".join(losses)
            self._bar.update(self._task, description=f"{self._step} | {place}", eta="".join(eta))
            self.advance(length, update)
        else:
            self.say(line)

    def track(self, parts: Iterable[Part], description: str, *, total: int) -> Iterator[Part]:
        """Pass `parts` on, showing how many of `total` are done: a bar on a terminal, elsewhere a line a minute."""
        if not self._bar:
            self.say(f"{description} …")
            said = time.monotonic()
            for done, part in enumerate(parts, start=1):
                yield part
                if time.monotonic() - said >= LINE_SECONDS:
                    said = time.monotonic()
                    self.say(f"{description}: {done / total:.0%}")
            return
        task = self._bar.add_task(description, total=total, eta="")
        for part in parts:
            yield part
            self._bar.advance(task)
        self._bar.remove_task(task)

    def held_out(self, epoch: int, metrics: dict[str, float]) -> None:
        shown = " | ".join(f"{name}: {value:.4g}" for name, value in metrics.items())
        self.say(f"Held out, epoch {epoch}: {shown}")


def same_command(text: str) -> str:
    """`text` about what continues a run: given again as it was, resume=fresh would move aside what is to go on."""
    return text.replace("same command", f"same command without {FRESH}") if FRESH in sys.argv[1:] else text


def fail(problems: list[str]) -> None:
    """Say what is wrong on standard error."""
    problems = [same_command(problem) for problem in problems]
    if len(problems) == 1:
        print(f"error: {problems[0]}", file=sys.stderr, flush=True)
        return
    print(f"{len(problems)} problems:", file=sys.stderr)
    for problem in problems:
        print(f"  - {problem}", file=sys.stderr, flush=True)


def aligned(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> list[str]:
    """Return a line a row, its columns as wide in each; all but the first stand to the right where they are numbers."""
    first, *widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pad = str.rjust if numbers else str.ljust
    lines = ["  ".join([row[0].ljust(first), *map(pad, row[1:], widths)]) for row in rows]
    return lines if numbers else [line.rstrip() for line in lines]


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
