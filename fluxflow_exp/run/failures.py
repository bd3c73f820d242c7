"""The end of a command that cannot go on: by the first error, in words, with what to do.

Never by a traceback of what a user can put right.
"""

import errno
import functools
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import ParamSpec

from fluxflow_exp import files
from fluxflow_exp.console import FRESH, Console, fail, same_command
from fluxflow_exp.errors import UserError
from fluxflow_exp.files import DamagedError
from fluxflow_exp.machine import environment, starting
from fluxflow_exp.run.folder import RunFolder

WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # what only a write ends in
LESS_MEMORY = (
    "To use less: hardware.activation_checkpointing=true, a smaller data.img_size, "
    "stage.steps.STEP.trainer.perceptual.crop=128 where LPIPS is on, or model=compact; "
    "docs/how-to/limited-vram.md lists more, and python -m fluxflow_exp.plan says beforehand what fits"
)

Arguments = ParamSpec("Arguments")


def command(main: Callable[Arguments, int | None]) -> Callable[Arguments, int | None]:
    """Let a command return exit code 2, with a line on standard error, where it cannot go on."""

    @functools.wraps(main)
    def guarded(*arguments: Arguments.args, **options: Arguments.kwargs) -> int | None:
        environment.settle()
        starting.over()
        try:
            result = main(*arguments, **options)
            if not environment.output_lost():
                return result
        except UserError as error:
            fail([str(problem) for problem in error.args])
        except OSError as error:
            fail([of_file(error)])
        except KeyboardInterrupt:
            sys.exit(130)
        return 2

    return guarded


def of_file(error: OSError) -> str:
    """Say which file could not be read or written, and why."""
    verb = "written" if error.errno in WRITING else "read or written"
    named = f"{error.filename}: " if error.filename else ""
    return f"a file could not be {verb}: {named}{error.strerror or error}"


@contextmanager
def output(otherwise: str) -> Iterator[None]:
    """UserError: what is written inside could not be, and what there is to do `otherwise`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{of_file(error)}. {otherwise}") from error


def of_run(error: Exception, folder: RunFolder) -> Exception:
    """Return what a run says of the error that ends it: a UserError if a user can put it right."""
    if isinstance(error, OSError):
        with suppress(OSError):
            kept = has_saved(folder)
            saved = f"The last checkpoint in {folder.checkpoints} is intact" if kept else "No checkpoint was made yet"
            return UserError(
                f"{of_file(error)}. {saved}; free space or repair the disk, and the same command "
                f"{'continues' if kept else 'begins again'}"
            )
        return UserError(f"{of_file(error)}. Repair the disk, and the same command continues from what it holds")
    if isinstance(error, DamagedError):
        return UserError(
            f"{error}. Bring it back from a mirror or a backup, and the same command continues; or resume=fresh moves "
            f"{folder.path} aside and begins anew"
        )
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return UserError(f"out of memory where a smaller micro-batch does not help: {error}. {LESS_MEMORY}")
    return error


def record(error: Exception, told: Exception, folder: RunFolder, console: Console) -> None:
    """Leave an error, and what is told of it, in the run folder, as far as its disk takes it."""
    with suppress(OSError):
        console.log("".join(traceback.format_exception(error)))
    with suppress(OSError):
        folder.record_failure(str(told) or type(told).__name__)


def has_saved(folder: RunFolder) -> bool:
    """Whether a run has a checkpoint; where it has none, no update was made. OSError: its disk cannot be read."""
    return bool(files.matching(folder.checkpoints, "*.pt"))


def at_once(folder: RunFolder) -> str:
    """What a second Ctrl-C, which waits for no save, leaves of the run in `folder`."""
    with suppress(OSError):
        if not has_saved(folder):
            return "stopped at once, before the first save. The same command begins again"
    return "stopped at once. The same command continues from the last save"


def how_to_continue() -> str:
    if "SUBMITIT_EXECUTOR" in os.environ:
        return "The scheduler starts the job again, or the command that launched it does"
    words = [word for word in sys.argv[1:] if word != FRESH]
    given = shlex.join(["python", "-m", "fluxflow_exp", *words])
    return same_command(f"The same command continues it:\n  {given}")
