"""A folder on a disk that cannot be written, also by root."""

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def make_read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would change `folder`, or something in it, ends as on a read-only file system."""

    def guarded(function: Callable[..., Any], writes: Callable[..., bool]) -> Callable[..., Any]:
        def guard(path: Any, *arguments: Any, **options: Any) -> Any:
            named = isinstance(path, str | Path) and Path(path).is_relative_to(folder)
            if named and writes(*arguments, **options):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return function(path, *arguments, **options)

        return guard

    monkeypatch.setattr(os, "open", guarded(os.open, lambda flags, *_, **__: bool(flags & WRITES)))
    monkeypatch.setattr(io, "open", guarded(io.open, lambda mode="r", *_, **__: bool(set(mode) & set("wax+"))))
    for name in ("mkdir", "unlink", "rename", "replace"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name), lambda *_, **__: True))
