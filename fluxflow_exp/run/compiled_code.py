"""Compiled code, kept in a file for the next start: after a kill, of another seed, on another machine with this card.

A file holds what torch.compile keeps (torch.compiler.save_cache_artifacts, by digests of graphs, shapes, settings,
versions and card), and what Triton has made of this package's own kernels, of which torch knows nothing. It is code: it
stands in the folder of caches, and never in a run's, which may be another person's.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import re
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fluxflow_exp import __version__, files
from fluxflow_exp.run import failures

if TYPE_CHECKING:
    from fluxflow_exp.config.schema import RunConfig
    from fluxflow_exp.machine.hardware import Machine

LIMIT_BYTES = 2 * 2**30  # of all such files of a folder; those that were not used for longest go
DIGEST_BYTES = 32  # SHA-256, before what it is of
TORCH = "torch"  # the member of the archive that is torch's
KERNEL = re.compile(r"triton/(?P<folder>[\w.-]+)/(?P<name>[\w.-]+)")  # Triton's
OF_TORCH = ("triton_", "__grp__triton_", "tmp.")  # how Triton's files begin that torch keeps itself, or are not whole
LIST = ".json"  # Triton's lists of files have their folder's path in them, for which
ELSEWHERE = b"[FOLDER]"  # stands


class CompiledCode:
    """The code of a run's regions: a file for each step in each of `folders`, the nearest first.

    It saves time, and no more: whatever goes wrong with it, in torch, too, is a line, and the code is compiled anew.
    """

    def __init__(self, folders: list[Path], key: str) -> None:
        self.folders, self.key = folders, key
        self._seconds = 0.0  # that compiling had taken when this was last saved
        self._known: set[str] = set()  # what the files hold
        self._failed = False
        self._met: set[str] = set()  # steps whose code was looked for
        self._kernels = _kernels_folder(key)

    def load(self, step: str) -> str:
        """Give torch and Triton what the file of `step` holds; what there is to say of it, the first time."""
        failed, places, news = [], self._places(step), step not in self._met
        self._known = set()
        self._met.add(step)
        for path in places:
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                failed.append(f"Note: {failures.of_file(error)}")
                continue
            if content[:DIGEST_BYTES] != hashlib.sha256(content[DIGEST_BYTES:]).digest():
                failed.append(f"Note: {path} is damaged")
                continue
            try:
                found = self._unpack(content[DIGEST_BYTES:])
            except Exception as error:
                failed.append(f"Note: {path} is of no use ({_reason(error)})")
                continue
            with suppress(OSError):  # when it was last used
                os.utime(path)
            if path == places[0] and all(map(os.path.exists, places)):
                self._known = found
            found_it = f"Compiled code of an earlier start: {len(content) / 1e6:.3g} MB, {path}"
            return "\n".join([*failed, *([found_it] if news else [])])
        return "\n".join(f"{each}; what it held is compiled anew" for each in failed)

    def save(self, step: str, seconds: float) -> str:
        """Write the files of `step` if they lack something; what went wrong, the first time.

        `seconds`: that compiling has taken so far, in this process.
        """
        if seconds == self._seconds:
            return ""
        self._seconds = seconds
        try:
            said = self._save(step)
        except Exception as error:
            said = f"Note: compiled code cannot be kept ({_reason(error)}); without it the next start compiles anew"
        said, self._failed = "" if self._failed else said, self._failed or bool(said)
        return said

    def _save(self, step: str) -> str:
        found = _artifacts()
        if found is None:
            return ""
        kernels = list(self._own_kernels())
        made = _names(found[1], kernels)
        if made <= self._known:
            return ""
        self._known, said = made, ""
        content = self._packed(found[0], kernels)
        for path in self._places(step):
            try:
                _write(path, hashlib.sha256(content).digest() + content)
            except OSError as error:
                said = f"Note: {failures.of_file(error)}; without it the next start compiles anew"
        return said

    def _places(self, step: str) -> list[Path]:
        return [folder / f"compiled-{step}-{self.key}.bin" for folder in self.folders]

    def _packed(self, artifacts: bytes, kernels: list[Path]) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr(TORCH, artifacts)
            for path in kernels:
                content = path.read_bytes()
                if path.suffix == LIST:
                    content = content.replace(os.fsencode(path.parent), ELSEWHERE)
                archive.writestr(f"triton/{path.parent.name}/{path.name}", content)
        return made.getvalue()

    def _own_kernels(self) -> Iterator[Path]:
        """Triton's files of kernels that are not torch's."""
        if self._kernels is None or not self._kernels.is_dir():
            return
        for folder in sorted(filter(Path.is_dir, self._kernels.iterdir())):
            inside = sorted(filter(Path.is_file, folder.iterdir()))
            if not any(path.name.startswith(OF_TORCH) for path in inside):
                yield from inside

    def _unpack(self, content: bytes) -> set[str]:
        """Put what a file holds where torch and Triton look for it; its names."""
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            info = torch.compiler.load_cache_artifacts(archive.read(TORCH))
            if info is None:
                raise ValueError("torch cannot read it")
            # Triton takes a kernel for whole once its list is there, and ends where a file of the list is not.
            for name in sorted(archive.namelist(), key=lambda each: "/__grp__" in each):
                match = KERNEL.fullmatch(name)
                if match and self._kernels is not None:
                    _put(self._kernels / match["folder"] / match["name"], archive.read(name))
        return _names(info, self._own_kernels())


def compiled_code(config: RunConfig, values: dict[str, Any], machine: Machine, folder: Path) -> CompiledCode | None:
    """Where a run's code is kept: in `folder`, and on the volume of its mirror. None: nothing is compiled, or kept."""
    if not (machine.compiled and config.cache.compiled):
        return None
    mirror = config.checkpoint.mirror
    return CompiledCode([folder, *([Path(mirror).expanduser() / "cache"] if mirror else [])], _key(values, machine))


def _key(values: dict[str, Any], machine: Machine) -> str:
    """A digest of versions, card, model and batches, which says what file to look into.

    It need not tell all things apart: what is in the file is found by torch's own digests.
    """
    cuda = machine.device.type == "cuda"
    card = (
        (torch.cuda.get_device_name(machine.device), torch.cuda.get_device_capability(machine.device)) if cuda else ()
    )
    versions = (__version__, torch.__version__, torch.version.cuda, sys.version, platform.machine())
    how = asdict(machine) | {"device": str(machine.device), "expected": None}
    steps = {name: (each.get("trainer"), each.get("batch_size")) for name, each in values["stage"]["steps"].items()}
    shapes = (values["model"], steps, values["data"].get("img_size"), values["hardware"]["micro_batch"])
    return hashlib.sha256(repr((versions, card, how, shapes)).encode()).hexdigest()[:16]


def _kernels_folder(key: str) -> Path | None:
    """Where Triton keeps kernels from now on: only those of this model. None: where the user wants them."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    home = Path(cache_dir()) / "triton"
    given = os.environ.get("TRITON_CACHE_DIR")
    if given and Path(given).parent != home:
        return None
    os.environ["TRITON_CACHE_DIR"] = str(home / key)
    return home / key


def _artifacts() -> tuple[bytes, Any] | None:
    """What torch has compiled in this process, all of it in one list of a kind.

    By itself torch (2.11 to 2.14) adds a list at each save, and reads no more than the last one.
    """
    from torch.compiler._cache import CacheArtifactManager as Made

    for held in (Made._serializer, Made._cache_info, Made._new_cache_artifacts):
        held.clear()
    for artifact in Made._seen_artifacts:
        Made._new_cache_artifacts[artifact.type()].append(artifact)
    return torch.compiler.save_cache_artifacts()


def _put(path: Path, content: bytes) -> None:
    """Write a file of Triton's, whole, unless it is there."""
    if path.exists():
        return
    if path.suffix == LIST:
        content = content.replace(ELSEWHERE, os.fsencode(path.parent))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"tmp.{os.getpid()}.{path.name}")
    with files.removing(temporary):
        temporary.write_bytes(content)
        temporary.replace(path)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]


def _names(info: Any, kernels: Iterator[Path] | list[Path]) -> set[str]:
    of_torch = {f"{kind}/{key}" for kind, keys in info.artifacts.items() for key in keys}
    return of_torch | {f"{path.parent.name}/{path.name}" for path in kernels}


def _write(path: Path, content: bytes) -> None:
    """Write a file; of its like those go that were not used for longest, where all are more than the limit."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    files.write_atomically(path, write)
    total, began = 0, time.time() - files.LONGEST_WRITE_SECONDS
    with suppress(OSError):  # other runs tidy up here, too
        for each in files.matching(path.parent, "tmp-*-compiled-*.bin"):  # of processes that were killed
            if each.stat().st_mtime < began:
                each.unlink()
        for each in sorted(files.matching(path.parent, "compiled-*.bin"), key=_used, reverse=True):
            total += each.stat().st_size
            if total > LIMIT_BYTES:
                each.unlink()


def _used(path: Path) -> int:
    return path.stat().st_mtime_ns
