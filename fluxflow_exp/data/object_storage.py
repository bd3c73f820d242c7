"""Files of object storage, any part of them: http(s) and hf by requests for ranges, all others through fsspec.

https://filesystem-spec.readthedocs.io, https://www.rfc-editor.org/rfc/rfc9110#name-range-requests
"""

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple, TypeVar, cast

from fluxflow_exp.data.stream import ATTEMPTS, FIRST_DELAY, TIMEOUT, shown
from fluxflow_exp.errors import UserError

CHUNK = 4 << 20  # bytes that are read and written at once
INSTALL = 'pip install "fluxflow-exp[storage]"'


T = TypeVar("T")


class State(NamedTuple):
    """What tells a file from what it becomes when it is written again."""

    size: int  # bytes
    tag: str  # its ETag, or the time at which it was written


class MissingError(OSError):
    """There is no such file, or none that may be read: to try again does not help."""


class Storage:
    """Reads files by their address; `token_env` is the environment variable of http's bearer token.

    OSError, of any library that is asked: it fails, and may not the next time. MissingError: it would.
    """

    def __init__(self, token_env: str | None = None) -> None:
        if token_env is not None and token_env not in os.environ:
            raise ValueError(f"token_env: the environment has no variable {token_env}")
        self.token_env = token_env

    def state(self, url: str) -> State:
        with _as_os_error():
            if not _is_http(url):
                return self._state(url)
            # Not HEAD: an address that is signed is so for one method.
            with self._answer(url, "bytes=0-0") as answer:
                return _http_state(answer)

    def read(self, url: str, start: int = 0, size: int | None = None) -> bytes:
        """`size` bytes from `start` on, or to the end; fewer where the file ends before."""
        end = "" if size is None else start + size - 1
        with _as_os_error():
            if not _is_http(url):
                system, path = filesystem(url)
                return cast(bytes, system.cat_file(path, start=start, end=None if size is None else start + size))
            whole = start == 0 and size is None
            with self._answer(url, None if whole else f"bytes={start}-{end}") as answer:
                if not whole and answer.status != 206:
                    raise MissingError(
                        "the server does not send parts of files (no Range): lay indices beside the shards "
                        "(python -m fluxflow_exp.data.shard_index), or stream them (data.epoch_size, no cache_gib)"
                    )
                return cast(bytes, answer.read())

    def chunks(self, url: str, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` on of a file that has `end` bytes."""
        with _as_os_error():
            if not _is_http(url):
                system, path = filesystem(url)
                for begin in range(start, end, CHUNK):
                    yield system.cat_file(path, start=begin, end=min(begin + CHUNK, end))
                return
            with self._answer(url, f"bytes={start}-" if start else None) as answer:
                if start and answer.status != 206:
                    _skip(answer, start)
                while chunk := answer.read1(CHUNK):
                    yield chunk

    def matching(self, pattern: str) -> list[str]:
        """The addresses of what a pattern with * names."""
        with _as_os_error():
            system, path = filesystem(pattern)
            return sorted(system.unstrip_protocol(found) for found in system.glob(path))

    def _state(self, url: str) -> State:
        system, path = filesystem(url)
        system.invalidate_cache(path)  # what a listing has said may be another file by now
        known = system.info(path)
        found = (known.get(key) for key in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created"))
        return State(int(known["size"]), str(next((each for each in found if each), "")))

    @contextmanager
    def _answer(self, url: str, wanted: str | None) -> Iterator[Any]:
        request = urllib.request.Request(url)
        if self.token_env is not None:  # not sent on to where the hub redirects: that is another host
            request.add_unredirected_header("Authorization", f"Bearer {os.environ[self.token_env]}")
        if wanted:
            request.add_header("Range", wanted)
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            yield answer


def patiently(what: str, attempt: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
    """Try again after growing pauses, and from the shortest on where `progress` has grown. UserError: in vain."""
    tries, delay, known = 1, FIRST_DELAY, progress()
    while True:
        try:
            return attempt()
        except OSError as error:
            if progress() > known:
                tries, delay, known = 1, FIRST_DELAY, progress()
            if tries == ATTEMPTS or isinstance(error, MissingError):
                again = "" if isinstance(error, MissingError) else f" after {tries} attempts"
                raise UserError(f"{what}{again}: {error}") from error
            time.sleep(delay)
            tries, delay = tries + 1, delay * 2


def name_of(url: str) -> str:
    """The last element of an address."""
    return shown(url).rpartition("/")[2]


def filesystem(url: str) -> tuple[Any, str]:
    """The file system of fsspec for an address, and the path there. ValueError: its library is not installed."""
    try:
        import fsspec

        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
        return found
    except ImportError as error:
        scheme = url.partition("://")[0]
        raise ValueError(f"urls: {scheme}:// needs a library that is not installed: {INSTALL} ({error})") from error


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _http_state(answer: Any) -> State:
    headers = answer.headers
    total = headers.get("Content-Range", "").rpartition("/")[2] if answer.status == 206 else ""
    size = total or headers.get("Content-Length", "")
    if not size.isdigit():
        raise MissingError("the server does not say how large it is")
    return State(int(size), headers.get("ETag") or headers.get("Last-Modified") or "")


def _skip(answer: IO[bytes], count: int) -> None:
    while count and (chunk := answer.read(min(count, CHUNK))):
        count -= len(chunk)


@contextmanager
def _as_os_error() -> Iterator[None]:
    """What goes wrong is an OSError, whatever a library calls it."""
    try:
        yield
    except urllib.error.HTTPError as error:
        if 400 <= error.code < 500 and error.code not in (408, 429):
            raise MissingError(str(error)) from error
        raise
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise MissingError(f"there is no such file, or it may not be read ({type(error).__name__}: {error})") from error
    except (OSError, ValueError, UserError, ImportError):
        raise
    except http.client.HTTPException as error:
        raise OSError(f"the connection broke off ({type(error).__name__})") from error
    except Exception as error:  # of a library of fsspec's
        raise OSError(f"{type(error).__name__}: {error}") from error
