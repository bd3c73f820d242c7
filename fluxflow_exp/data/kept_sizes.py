"""Sizes of pictures that were read at an earlier start: buckets need all of them, and opening a million files is slow.

A size is known by the picture's name, its file's bytes and time of change; a file that has changed is looked at again.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fluxflow_exp import files
from fluxflow_exp.data.buckets import Size

FOLDER = "~/.cache/fluxflow-exp/upright-sizes"
MANY = 1000  # pictures, from which on keeping their sizes is worth a file


class KeptSizes:
    """Of `count` pictures of a set, of which the first lies at `first`: a set elsewhere has a file of its own."""

    def __init__(self, first: Any, count: int) -> None:
        self._path: Path | None = None
        self._known: dict[str, Size] = {}
        self._new: dict[str, Size] = {}
        if isinstance(first, Path) and count >= MANY:
            name = hashlib.sha256(str(first.absolute().parent).encode(errors="surrogateescape")).hexdigest()[:16]
            self._path = Path(FOLDER).expanduser() / f"{name}.json"
            self._known = _read(self._path)

    def size(self, name: str, state: Any, read: Callable[[], Size]) -> Size:
        """(height, width) of the picture `name` whose file is in `state`; by `read`, if that is not known."""
        if self._path is None or state is None:
            return read()
        key = f"{name} {state}"
        if key not in self._known:
            self._known[key] = self._new[key] = read()
        return self._known[key]

    def keep(self) -> None:
        """Write what is new; where the disk does not take it, it is read again the next time."""
        if self._path is None or not self._new:
            return
        text = json.dumps(self._known)
        with suppress(OSError):
            files.write_text(self._path, f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def _read(path: Path) -> dict[str, Size]:
    """Nothing, where the file is not there or not whole."""
    try:
        digest, _, text = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError):
        return {}
    if digest != hashlib.sha256(text.encode()).hexdigest():
        return {}
    return {key: (height, width) for key, (height, width) in json.loads(text).items()}
