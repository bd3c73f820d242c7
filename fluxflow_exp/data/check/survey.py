"""Every picture of a folder that captions name, read in several processes."""

import os
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fluxflow_exp.data import folder_notes, sidecars
from fluxflow_exp.data.captions_file import Captions, read_captions
from fluxflow_exp.data.check.duplicates import Groups, Pair, pairs
from fluxflow_exp.data.check.look import DIGEST, KEPT, Look, look
from fluxflow_exp.data.check.wanted import Wanted
from fluxflow_exp.data.image_folder import ImageFolder
from fluxflow_exp.data.images import is_held_out
from fluxflow_exp.data.workers import reading
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import cores

CHUNK = 32  # pictures that a process reads before it says so


class Survey:
    """What captions say, and what their files hold.

    `names` are the pictures, each once; of those that can be read `at` are the indices, and rows of `digests`
    (n, 16), `kept` (n, 304) and `sizes` (n, 2), height and width, are theirs.
    """

    def __init__(self, wanted: Wanted, *, workers: int) -> None:
        self.wanted = wanted
        self.there = _there(wanted.folder)
        self.captions, self.apart = _captions(wanted)
        self.entries = self.captions.entries + self.apart.entries
        self.listing = folder_notes.Listing(wanted.folder, [entry.id for entry in self.entries])
        self.missing = folder_notes.missing_of(self.entries, self.listing)
        gone = set(self.missing)
        named = list(dict.fromkeys(entry.id for entry in self.entries if entry.id not in gone))
        self.names = named if wanted.captions_file else self.there
        if not self.names:
            raise UserError(self._nothing())
        self.wrong: dict[str, str] = {}  # name → why it cannot be read
        self.kinds: dict[str, list[str]] = {}  # of look.KINDS → names
        started = time.monotonic()
        self._read(workers)
        self.seconds = time.monotonic() - started

    @cached_property
    def said(self) -> list[tuple[str, str]]:
        """All captions, each with the name of its picture."""
        return [(entry.id, caption) for entry in self.entries for caption, _ in entry.weighted]

    @cached_property
    def bare(self) -> list[str]:
        """Pictures of the folder that no caption names, where there are captions at all."""
        known = {_below(name, self.wanted.folder) for name in self.names}
        return [name for name in self.there if name not in known]

    @cached_property
    def pairs(self) -> list[Pair]:
        """Copies, as indices of `names`."""
        found = pairs(self.digests, self.kept)
        return [each._replace(first=self.at[each.first], second=self.at[each.second]) for each in found]

    @cached_property
    def groups(self) -> list[list[str]]:
        """Names of pictures that are copies of each other, near or exact, or that metadata have put together."""
        sets, place = Groups(len(self.names)), {name: index for index, name in enumerate(self.names)}
        first: dict[str, int] = {}
        for pair in self.pairs:
            sets.join(pair.first, pair.second)
        for entry in self.entries:
            if entry.group is not None and entry.id in place:
                sets.join(first.setdefault(entry.group, place[entry.id]), place[entry.id])
        return [[self.names[index] for index in members] for members in sets.members()]

    @cached_property
    def held_out(self) -> set[str]:
        """Names of pictures that are not trained on."""
        if self.wanted.held_out_file is not None:
            return {entry.id for entry in self.apart.entries}
        return {entry.id for entry in self.captions.entries if is_held_out(entry.side, self.wanted.fraction)}

    @cached_property
    def trained(self) -> ImageFolder | str:
        """What training would make of it, or the words with which it would refuse it."""
        wanted = self.wanted
        if wanted.captions_file is None:
            return "there are no captions"
        try:
            return ImageFolder(
                data_path=str(wanted.folder), captions_file=wanted.captions_file, img_size=wanted.img_size,
                buckets=wanted.max_ratio, reduced_min_sizes=wanted.reduced_min_sizes,
                fixed_prompt_prefix=wanted.prefix, validation_fraction=wanted.fraction,
                max_bad_fraction=wanted.max_bad_fraction, held_out_file=wanted.held_out_file,
            )  # fmt: skip
        except ValueError as error:
            return str(error)

    def parted(self) -> list[list[str]]:
        """The groups of which some are trained on and some held out."""
        if not self.wanted.captions_file:
            return []
        return [names for names in self.groups if 0 < sum(name in self.held_out for name in names) < len(names)]

    def _nothing(self) -> str:
        """Why there is nothing to read."""
        folder = self.wanted.folder
        if not self.there or not self.missing:
            return f"{folder} holds no picture" + (" that a caption names" if self.there else "")
        why = folder_notes.cause(self.missing, self.listing)
        return folder_notes.line(self.missing, "picture", f"not in {folder}, and no caption names another one", why)

    def _read(self, workers: int) -> None:
        count = len(self.names)
        digests, kept = np.zeros((count, DIGEST), np.uint8), np.zeros((count, KEPT), np.uint8)
        sizes, at = np.zeros((count, 2), np.int32), list[int]()
        for index, found in enumerate(_looks(self, workers)):
            if found.wrong:
                self.wrong[self.names[index]] = found.wrong
                continue
            row = len(at)
            at.append(index)
            digests[row], kept[row] = np.frombuffer(found.digest, np.uint8), np.frombuffer(found.kept, np.uint8)
            sizes[row] = found.size
            for kind in found.kinds:
                self.kinds.setdefault(kind, []).append(self.names[index])
        self.at = at
        self.digests, self.kept, self.sizes = digests[: len(at)], kept[: len(at)], sizes[: len(at)]


class _Chunks:
    """Runs of names, each read at once."""

    def __init__(self, folder: Path, names: list[str], at_least: int) -> None:
        self.folder, self.names, self.at_least = folder, names, at_least

    def __len__(self) -> int:
        return -(-len(self.names) // CHUNK)

    def __getitem__(self, index: int) -> list[Look]:
        names = self.names[index * CHUNK : (index + 1) * CHUNK]
        return [look(self.folder / name, at_least=self.at_least) for name in names]


def _looks(survey: Survey, workers: int) -> Iterator[Look]:
    """What is found of each picture, in their order, with a bar of how far it is."""
    chunks = _Chunks(survey.wanted.folder, survey.names, survey.wanted.img_size)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    how: dict[str, Any] = {"dataset": chunks, "batch_size": None, "collate_fn": _as_it_is}
    few = min(workers, len(chunks)) if len(chunks) > 1 else 0
    with reading(num_workers=few, **how) as read, Progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task("Reading pictures", total=len(survey.names), rate="")
        started, done = time.monotonic(), 0
        for chunk in read:
            yield from chunk
            done += len(chunk)
            rate = done / max(time.monotonic() - started, 1e-9)
            bar.update(task, completed=done, rate=f"{rate:,.0f} a second")


def _as_it_is(chunk: list[Look]) -> list[Look]:
    return chunk


def _below(name: str, folder: Path) -> str:
    """A name as `sidecars.look` gives it: relative to the folder, the shortest one."""
    return os.path.relpath(name, folder.absolute()) if os.path.isabs(name) else os.path.normpath(name)


def _there(folder: Path) -> list[str]:
    try:
        return sidecars.look(folder).pictures
    except ValueError as error:
        raise UserError(str(error)) from error


def _captions(wanted: Wanted) -> tuple[Captions, Captions]:
    """Those that are trained on or split, and those of a file that says what is held out. UserError: unusable."""
    none = Captions([], [], [], [])
    if wanted.captions_file is None:
        return none, none
    try:
        first = read_captions(wanted.captions_file, wanted.folder)
        if wanted.held_out_file is None:
            return first, none
        return first, read_captions(wanted.held_out_file, wanted.folder, key="held_out_file")
    except ValueError as error:
        raise UserError(str(error)) from error


def processes() -> int:
    """How many processes read by default: one for each CPU that this one may use."""
    return cores.usable()
