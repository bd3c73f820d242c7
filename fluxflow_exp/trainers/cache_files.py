"""Filling a cache's files: each rank writes its share of the shards that are missing, if the disk has the room."""

import shutil
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

from fluxflow_exp.data.array_shards import ArrayShards
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine.preemption import Interrupted
from fluxflow_exp.trainers.context import StepContext


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


def _make_room(say: Callable[[str], None], folder: Path, what: str, need: int) -> None:
    """Say what will be written. UserError: the disk has not the room."""
    say(f"{what}, {_megabytes(need)}, in {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise UserError(
            f"{folder} needs {_megabytes(need)}, and its disk has {_megabytes(free)} free: make room, set cache.path "
            "to another disk, or set cache.mode=off"
        )


def wrong(folder: Path, what: str) -> UserError:
    return UserError(f"the cache {folder} does not hold what it should: {what}. Delete that folder; it is written anew")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"
