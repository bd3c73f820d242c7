"""Checkpoints: one file a save, atomic, named by its digest, so that a torn or rotten one is told from a good one.

`<step number>-<step>-<update>[-final]-<16 hex of SHA-256>.pt`. The newest that verifies is loaded.
"""

import os
import re
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fluxflow_exp import files
from fluxflow_exp.errors import UserError

FORMAT = 1
NAME = re.compile(r"(?P<index>\d{2})-(?P<step>.+)-(?P<update>\d{8})(?P<final>-final)?-(?P<digest>[0-9a-f]{16})\.pt")


class CheckpointStore:
    """The `checkpoints/` folder of a run: save, retention, verified load."""

    def __init__(self, folder: Path, *, keep: int = 2, run: str | None = None) -> None:
        """`run`: a digest of what makes the run this one, kept in each file; None: nothing is compared."""
        if keep < 1:
            raise ValueError(f"checkpoint.keep must be at least 1, not {keep}")
        self.folder, self.keep, self.run = folder, keep, run
        self._whole: dict[Path, tuple[int, ...]] = {}  # files that have verified, by what changes with them

    def save(self, state: dict[str, Any], *, index: int, step: str, update: int, final: bool = False) -> Path:
        """Write `state`; a failure (a full disk, say) raises OSError and leaves earlier checkpoints alone."""
        mark = "-final" if final else ""
        stem = f"{index:02d}-{step}-{update:08d}{mark}"
        temporary = self.folder / f"tmp-{os.getpid()}-{stem}"
        with files.naming(self.folder / f"{stem}-….pt"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with files.removing(temporary):
                files.write_stream(temporary, partial(torch.save, {"format": FORMAT, "run": self.run, **state}))
                path = self.folder / f"{stem}-{files.digest(temporary)[:16]}.pt"
                temporary.replace(path)
            files.sync_folder(self.folder)
        self._prune()
        return path

    def newest(self, step: str) -> Path | None:
        """The newest file of `step` that verifies; a bad one is skipped with a warning. None: there is none."""
        for path in reversed(self.paths()):
            if _parse(path)["step"] != step:
                continue
            if self._is_whole(path):
                return path
            warnings.warn(f"skipping {path}: its content does not match its digest", stacklevel=2)
        return None

    def load(self, path: Path, *, map_location: torch.device | str = "cpu", mapped: bool = False) -> dict[str, Any]:
        """The state in a checkpoint. UserError: it is none, has another format, or is another run's.

        `mapped`: its tensors stay in the file until they are read, once for all ranks of a machine.
        """
        try:
            with files.naming(path), path.open("rb") as file:
                given = path if mapped else file
                state = torch.load(given, map_location=map_location, weights_only=True, mmap=mapped)
        except (OSError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # torch and pickle raise what they like upon what is no checkpoint
            raise not_ours(path, str(error).partition("\n")[0]) from error
        if not isinstance(state, dict) or "format" not in state:
            raise not_ours(path, "it holds no state of a run")
        if state["format"] != FORMAT:
            raise not_ours(path, f"it has checkpoint format {state['format']}; this version reads {FORMAT}")
        if None not in (self.run, theirs := state.get("run")) and theirs != self.run:  # older files do not say
            raise not_ours(path, "it was saved by a run with another configuration")
        return state

    def progress(self, step: str) -> int:
        """The update of the newest file of `step`, whole or not; 0: there is none."""
        return max((int(_parse(p)["update"]) for p in self.paths() if _parse(p)["step"] == step), default=0)

    def reached(self, step: str) -> int | None:
        """The update that `newest` stands at; None: there is none."""
        newest = self.newest(step)
        return None if newest is None else int(_parse(newest)["update"])

    def paths(self) -> list[Path]:
        """All checkpoints, oldest first."""
        found = [p for p in files.matching(self.folder, "*.pt") if NAME.fullmatch(p.name)]
        return sorted(found, key=lambda p: (_parse(p)["index"], _parse(p)["update"], p.name))

    def _is_whole(self, path: Path) -> bool:
        stat = path.stat()
        now = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
        if self._whole.get(path) == now:
            return True
        whole = is_intact(path)
        if whole:
            self._whole[path] = now
        return whole

    def _prune(self) -> None:
        passing = [p for p in self.paths() if not _parse(p)["final"]]
        finals = [p for p in self.paths() if _parse(p)["final"]]
        newest_of = {_parse(p)["step"]: p for p in finals}
        for path in [*passing[: -self.keep], *(p for p in finals if p not in newest_of.values())]:
            path.unlink()
        for leftover in self.folder.glob("tmp-*"):
            leftover.unlink(missing_ok=True)


def not_ours(path: Path, why: str) -> UserError:
    """Return the error for a checkpoint whose bytes are those of its name, and of which nothing can be continued."""
    return UserError(
        f"{path} is no checkpoint that can be continued from: {why}. Its digest is that of its name, so that the disk "
        "has not damaged it. Move it away, and the same command continues from the one before"
    )


def is_intact(path: Path) -> bool:
    """Whether a checkpoint's content has the digest that its name says."""
    return files.digest(path).startswith(_parse(path)["digest"])


def _parse(path: Path) -> dict[str, str]:
    match = NAME.fullmatch(path.name)
    assert match, path
    return match.groupdict()
