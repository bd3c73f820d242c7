"""Ctrl-C while a command is imported, which takes seconds: one line, as of later ones, instead of a traceback.

It leaves at once. An exception would pass through whatever is being imported, and some of that makes another one of it,
or goes on as if nothing had been (torch, where it imports numpy).
"""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType

from fluxflow_exp.machine import exits

SCRIPTS = ("fluxflow-train", "fluxflow-generate")
TOLD = "stopped before anything began"
IMPORTING = "<frozen importlib._bootstrap>"  # the file of the frames that import


def listen() -> None:
    """Answer a Ctrl-C in a line until `over`, if this process is a command of this package.

    In a program that imports the package, and in a command that was told to ignore Ctrl-C, nothing is changed.
    """
    if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def over() -> None:
    """From here on the command may have something to end well: a Ctrl-C raises KeyboardInterrupt but within imports."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, _interrupt)


def _is_command() -> bool:
    if sys.argv[0] != "-m":  # which it is while Python looks for the module
        return os.path.basename(sys.argv[0]) in SCRIPTS
    return sys.orig_argv[-len(sys.argv)].removeprefix("-m").partition(".")[0] == __name__.partition(".")[0]


def _leave(signum: int, frame: FrameType | None) -> None:
    if exits.first_here():
        with suppress(OSError):  # the terminal is gone
            os.write(2, f"error: {TOLD}\n".encode())
    os._exit(128 + signum)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    while frame:
        if frame.f_code.co_filename == IMPORTING:
            os._exit(128 + signum)
        frame = frame.f_back
    raise KeyboardInterrupt
