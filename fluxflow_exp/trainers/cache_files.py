"""Filling a cache's files: each rank writes its share of the shards that are missing, if the disk has the room."""

import hashlib
import shutil
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fluxflow_exp.data.array_shards import ArrayShards
from fluxflow_exp.data.cache import FORMAT
from fluxflow_exp.data.protocols import digest
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine.preemption import Interrupted
from fluxflow_exp.trainers.context import StepContext

# How far an entry that is encoded again may be from the one kept: root mean square, relative. Another card, version or
# TF32 rounds otherwise; other weights or images are farther by orders of magnitude.
TOLERANCE = {"fp32": 5e-3, "bf16": 5e-2, "fp16": 5e-2}
CHECKED = 4  # entries encoded again at a start


def folder_of(
    setup: StepContext, root: Path, kind: str, part: nn.Module, fingerprint: Callable[[], str], *more: Any
) -> Path:
    """Named by all that the values depend on, as the first rank sees it."""
    key = ""
    if setup.ranks.first:
        given = [FORMAT, kind, setup.machine.precision, weights_digest(part), fingerprint(), *more]
        key = digest(given)[:16]
    return root / f"{kind}-{setup.ranks.from_first(key)}"


def weights_digest(module: nn.Module) -> str:
    """Return the digest of a model's layers and weights, on whatever device they are; hexadecimal."""
    found = hashlib.sha256(str(module).encode())
    for name, tensor in module.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def fill(
    setup: StepContext,
    shards: ArrayShards,
    write: Callable[[list[int]], Generator[None]],
    need: Callable[[list[int]], tuple[str, int]],
) -> None:
    """Write the shards that are missing, each rank every n-th of them."""
    ranks = setup.ranks
    missing = ranks.from_first(shards.missing() if ranks.first else [])
    if not missing:
        return
    if ranks.first:
        _make_room(setup.console.say, shards.folder, *need(missing))
    ranks.meet()
    writing = write(missing[ranks.rank :: ranks.count])
    rounds = -(-len(missing) // ranks.count)
    with closing(writing):
        for _ in setup.console.track(range(rounds), f"Writing {shards.folder.name}", total=rounds):
            next(writing, None)
            (signum,) = ranks.largest([setup.stop.signum or 0])
            if signum:
                raise Interrupted(signum)
    ranks.meet()
    if ranks.first:
        shards.tidy()


def compare(fresh: Tensor, kept: Tensor, folder: Path, name: str, *, tolerance: float) -> None:
    """UserError: an entry that was encoded again is not the one kept."""
    if fresh.shape != kept.shape:
        raise wrong(folder, f"{name!r} has the shape {tuple(kept.shape)} there and {tuple(fresh.shape)} here")
    error = float((kept.float() - fresh.float()).norm() / fresh.float().norm())
    if not error <= tolerance:
        raise wrong(folder, f"{name!r} encoded again differs by {error:.2g} (tolerance {tolerance:g})")


def _make_room(say: Callable[[str], None], folder: Path, what: str, need: int) -> None:
    """Say what will be written. UserError: the disk has not the room."""
    say(f"{what}, {megabytes(need)}, in {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise UserError(
            f"{folder} needs {megabytes(need)}, and its disk has {megabytes(free)} free: make room, set cache.path "
            "to another disk, or set cache.mode=off"
        )


def wrong(folder: Path, what: str) -> UserError:
    return UserError(f"the cache {folder} does not hold what it should: {what}. Delete that folder; it is written anew")


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"
