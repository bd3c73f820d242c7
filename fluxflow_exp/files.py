"""Reading and writing: what is written cannot be torn, and what fails says which file it was."""

import fnmatch
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from fluxflow_exp.errors import UserError

CHUNK_BYTES = 1 << 20
TEMPORARY = re.compile(r"tmp-(?P<process>\d+)-")
LONGEST_WRITE_SECONDS = 3600.0


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, then give it `path`'s name. OSError: it failed, and `path` is as it was."""
    temporary = path.with_name(f"tmp-{os.getpid()}-{path.name}")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with removing(temporary):
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        sync_folder(path.parent)


def weights_folder(source: Path) -> Path:
    """The weights/ of a run folder, which may be `source` itself."""
    inside = source / "weights"
    return source if source.resolve().name == "weights" and not inside.is_dir() else inside


def copy(source: Path, target: Path) -> str:
    """Copy a file with its times, durably; the SHA-256 of what was read, hexadecimal."""
    found = hashlib.sha256()
    with source.open("rb") as reading, target.open("wb") as writing:
        times = os.fstat(reading.fileno())
        while chunk := reading.read(CHUNK_BYTES):
            found.update(chunk)
            writing.write(chunk)
        writing.flush()
        os.utime(writing.fileno(), ns=(times.st_atime_ns, times.st_mtime_ns))
        os.fsync(writing.fileno())
    return found.hexdigest()


def is_left_over(path: Path) -> bool:
    """Whether a file is a temporary one whose writer, a process on this machine, has ended.

    The number of one that was killed long ago may be another process's by now, or this one's.
    """
    named = TEMPORARY.match(path.name)
    if not named:
        return False
    if int(named["process"]) == os.getpid() or time.time() - path.stat().st_mtime > LONGEST_WRITE_SECONDS:
        return True
    try:
        os.kill(int(named["process"]), 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError inside names `path`: that of a write or of a temporary file does not say which file was meant."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def removing(temporary: Path) -> Iterator[None]:
    """Leave no `temporary` file if something inside fails; where the disk does not let it go, that is not told."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


class DamagedError(UserError):
    """A file of a run is not whole, or not what it should be."""


class Sink:
    """A file for torch and NumPy to write to: afterwards `error` is the file's own, of which theirs do not tell."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self.file.flush()


def write_stream(path: Path, write: Callable[[Sink], object]) -> None:
    """Let `write` fill a file, durably. OSError: the file's own, whatever `write` makes of it."""
    with path.open("wb") as file:
        sink = Sink(file)
        try:
            write(sink)
        except Exception as error:
            if sink.error:
                raise sink.error from error
            raise
        file.flush()
        os.fsync(file.fileno())


def matching(folder: Path, pattern: str) -> list[Path]:
    """List what stands in `folder` under names that match the shell's `pattern`, by name; nothing if it is not there.

    OSError: it cannot be read. Path.glob finds nothing then, and what is only unreadable would be taken for gone.
    """
    with naming(folder):
        try:
            names = os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
    return [folder / name for name in sorted(fnmatch.filter(names, pattern))]


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2) + "\n"
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def read_json(path: Path) -> Any:
    """DamagedError: the file is not whole."""
    try:
        with naming(path):
            return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} cannot be read: {error}") from error


def read_fields(path: Path, **fields: Any) -> dict[str, Any]:
    """A JSON object with at least these `fields`, each of its type (isinstance). DamagedError: it is another thing."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise DamagedError(f"{path} is damaged: it holds no JSON object")
    for name, kind in fields.items():
        if name not in found:
            raise DamagedError(f"{path} is damaged: it has no {name!r}")
        if not isinstance(found[name], kind):
            raise DamagedError(f"{path} is damaged: its {name!r} is {found[name]!r:.80}")
    return found


@contextmanager
def understood(path: Path) -> Iterator[None]:
    """Call it damage where a run that is looked at holds what no run writes, in whatever place it is met."""
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        said = f"{type(error).__name__}: {error}"
        raise DamagedError(f"{path} cannot be read: a file of it is not as a run writes it ({said:.300})") from error


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with naming(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def count_lines(path: Path) -> int:
    """Count the lines of a file; 0 where there is none."""
    return path.read_bytes().count(b"\n") if path.exists() else 0
