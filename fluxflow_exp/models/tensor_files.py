"""Safetensors files, written and opened with errors that name them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from torch import Tensor


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that whoever may read its folder may read. OSError: the disk does not take it."""
    for leftover in path.parent.glob(".tmp*"):  # save_file writes to such a name first; a killed process leaves it
        leftover.unlink(missing_ok=True)
    from safetensors.torch import save_file  # torch, which reading metadata does without

    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        raise _of_disk(error, path) or error from error
    path.chmod(path.parent.stat().st_mode & 0o666)  # the library's files are for their owner alone


@contextmanager
def opened(path: Path, *, framework: str = "pt") -> Iterator[Any]:
    """A safetensors file to read; with `framework` np without torch.

    OSError: the disk does not give it. ValueError: it is not whole.
    """
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    except RuntimeError as error:
        raise _of_disk(error, path) or error from error


def _of_disk(error: Exception, path: Path) -> OSError | None:
    """The system's error of which safetensors, or torch below it, tells in words alone; None: it is another."""
    found = re.search(r"os error (\d+)|unable to \w+ file.*\((\d+)\)$", str(error))
    number = int(found[1] or found[2]) if found else None
    return OSError(number, os.strerror(number), str(path)) if number else None
