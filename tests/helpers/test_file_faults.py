"""The preloaded library sees what a process does to its files, and can end it or let it fail at any operation."""

import errno
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.helpers.children import CONTEXT
from tests.helpers.file_faults import FileFault, needs_compiler, operations

pytestmark = needs_compiler
FREEING = ("unlink", "attributes")  # which a full disk lets through
OTHER = 125
ERRORS = [errno.ENOSPC, errno.EIO, errno.EROFS]


def _work(folder: Path, fault: FileFault) -> None:
    """Write, copy and rename in every way that a run does."""
    fault()
    try:
        (folder / "a").mkdir()
        with (folder / "a" / "text").open("w") as file:
            file.write("0123456789")
            file.flush()
            os.fsync(file.fileno())
        (folder / "a" / "text").replace(folder / "a" / "renamed")
        shutil.copy2(folder / "a" / "renamed", folder / "copy")
        np.save(folder / "array.npy", np.zeros(64))
        Image.new("RGB", (4, 4)).save(folder / "picture.webp")
        torch.save({"x": torch.zeros(8)}, folder / "state.pt")
        save_file({"x": torch.zeros(8)}, folder / "weights.safetensors")
        os.unlink(folder / "copy")
    except OSError as error:  # NumPy's has no errno
        os._exit(error.errno or OTHER)
    except Exception:  # torch and safetensors tell of it in exceptions of their own
        os._exit(OTHER)
    os._exit(0)


def _code(folder: Path, fault: FileFault) -> int | None:
    folder.mkdir()
    child = CONTEXT.Process(target=_work, args=(folder, replace(fault, roots=(folder,))))
    child.start()
    child.join(60)
    return child.exitcode


def test_nothing_escapes_it_and_any_operation_ends_or_fails(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert _code(tmp_path / "whole", FileFault((), log=log)) == 0
    seen = operations(log)
    written: dict[str, int] = {}
    for each in seen:
        if each.kind == "write":
            written[each.path.name] = written.get(each.path.name, 0) + each.bytes
    for path in (tmp_path / "whole").iterdir():
        if path.is_file() and path.suffix != ".safetensors":  # which has another name while it is written
            assert written[path.name] == path.stat().st_size, path
    assert {each.kind for each in seen} >= {"mkdir", "open", "write", "fsync", "rename", "copy", "unlink", "attributes"}

    for each in seen[:: len(seen) // 8]:
        error = errno.EIO if each.kind in FREEING else ERRORS[each.number % 3]
        killed = _code(tmp_path / f"killed-{each.number}", FileFault((), at=each.number))
        failed = _code(tmp_path / f"failed-{each.number}", FileFault((), at=each.number, error=error))
        assert (killed, failed in (error, OTHER)) == (-signal.SIGKILL, True), (each, failed)
    half = next(each.number for each in seen if each.path.name == "text" and each.kind == "write")
    assert _code(tmp_path / "torn", FileFault((), at=half, half=True)) == -signal.SIGKILL
    assert (tmp_path / "torn" / "a" / "text").read_text() == "01234"
    once = FileFault((), at=1, error=errno.EIO, reads=True, once=True)
    assert _code(tmp_path / "reads", once) == errno.EIO
