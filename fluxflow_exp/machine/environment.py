"""The environment that a command was started in, settled so that nothing there can end it later."""

import io
import os
import sys
from contextlib import suppress
from typing import Any

NARROW = 20  # columns: a terminal that claims to have fewer has not said how many


def settle() -> None:
    """Give every command the same ground; called at its start, once or again.

    Characters that a stream's encoding lacks are written as escapes. A stream whose reader is gone (`| head`, a
    terminal after its ssh session, a full disk) takes no more, which is no error: a run has its log. matplotlib, which
    other packages import too, draws into memory. A width of 0 columns is none.
    """
    os.environ["MPLBACKEND"] = "agg"
    columns = os.environ.get("COLUMNS", "80")
    if not columns.isdecimal() or int(columns) < NARROW:
        del os.environ["COLUMNS"]
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file to be opened would take its place, and what is printed
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "w" if descriptor else "r", closefd=False))  # noqa: SIM115
        if descriptor and type(getattr(sys, name)) is io.TextIOWrapper:
            _make_last(getattr(sys, name), name)


def output_lost() -> bool:
    """Whether a disk did not take what was printed, so that a command whose result that is has failed."""
    sys.stdout.flush()
    below: Any = getattr(sys.stdout, "buffer", None)
    return bool(getattr(getattr(below, "raw", below), "refused", False))


def _make_last(stream: io.TextIOWrapper, name: str) -> None:
    """Put a stream that bears more in the place of a standard one; one that captures or lasts already stays."""
    below: Any = stream.buffer
    buffered = isinstance(below, io.BufferedWriter)
    if type(below.raw if buffered else below) is not io.FileIO:
        return
    stream.flush()
    lasting: Any = _Lasting(stream.fileno(), "w", closefd=False)
    made = io.TextIOWrapper(
        io.BufferedWriter(lasting) if buffered else lasting,
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    setattr(sys, name, made)


class _Lasting(io.FileIO):
    """Bytes that cannot be written are lost, and that is said on standard error if a disk is to blame."""

    refused = False  # by a disk

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except (BrokenPipeError, BlockingIOError):
            pass
        except OSError as error:
            if not self.refused and not self.isatty():
                self.refused = True
                with suppress(OSError):
                    os.write(2, f"error: what is said here cannot be written any more: {error.strerror}\n".encode())
        return len(data)
