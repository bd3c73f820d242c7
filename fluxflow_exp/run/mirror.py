"""A run's second copy, on a volume that outlives the machine: `<mirror>/<run>-<id>/`, in generations.

Of a run and its mirror, the newer one wins. Nothing is deleted on either side but generations that have been replaced.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxflow_exp import files
from fluxflow_exp.errors import UserError, counted
from fluxflow_exp.machine import clock
from fluxflow_exp.run import digest_list, failures, generation, progress, tally
from fluxflow_exp.run.differing import Differing, given
from fluxflow_exp.run.folder import Mirror, RunFolder, free_name
from fluxflow_exp.run.generation import File, Generation
from fluxflow_exp.run.identity import identity, identity_differences, is_extension, starts
from fluxflow_exp.run.progress import Progress

if TYPE_CHECKING:
    from fluxflow_exp.console import Console

# What stays in the copy if it is gone from the run folder: no run takes such files away.
KEPT = ("weights/", "samples/", "graph/", "evaluations/", "config.yaml", "code.diff")


def bring_back(folder: RunFolder, values: dict[str, Any]) -> list[str]:
    """Put the copy in place of a run folder that is lost, damaged or behind it; return what there is to say.

    The folder as it was is kept under another name. UserError: the copy is of another run, not whole, or unreadable.
    """
    if folder.mirror is None:
        return []
    try:
        return _bring_back(folder.mirror, folder, values)
    except OSError as error:
        reason, root = failures.of_file(error), folder.mirror.root
        if progress.read(folder):
            return [f"Note: {reason}; the mirror {root} was not looked at"]
        raise UserError(
            f"{reason}. {folder.path} holds no run, and the mirror {root} may: repair it, and the same command brings "
            "the run back, or say checkpoint.mirror=null to begin without"
        ) from error


def follow(folder: RunFolder, console: Console, *, then: str = "training goes on, and the next save") -> None:
    """Copy what a save has left to the run's mirror, if it has one; a failure is said, and what tries again `then`."""
    reason = _fails(folder)
    if reason:
        console.say(f"Note: {reason}; {then} tries again")


def finish(folder: RunFolder) -> None:
    """Copy the run to its mirror, if it has one. UserError: the copy is not what the folder is."""
    reason = _fails(folder)
    if reason:
        raise UserError(f"{reason}. The folder is whole; the same command tries again")


def save(mirror: Mirror, folder: RunFolder) -> None:
    """Make the run as it is now the newest generation.

    OSError: it cannot be written. UserError: what is there is not to be replaced by it.
    """
    record = folder.read_record()
    home = mirror.root / f"{mirror.run}-{identity(record)}"
    before = generation.newest(home)
    if before:
        _refuse_loss(before, folder, record)
    known = before.files if before else {}
    entries: dict[str, File] = {}
    try:
        _store(folder, home, known, entries)
        if entries != known:
            _switch(mirror, folder, record, before, home, entries)
    except BaseException:  # what was copied would fill a full disk further, with every try
        with suppress(OSError):
            if generation.newest(home) == before:
                generation.remove(generation.places(home, entries) - generation.places(home, known))
        raise


def _fails(folder: RunFolder) -> str | None:
    """Copy the run to its mirror, if it has one; why that was not possible."""
    if folder.mirror is None:
        return None
    try:
        save(folder.mirror, folder)
    except OSError as error:
        reason = failures.of_file(error)
    except UserError as error:
        reason = f"the mirror {folder.mirror.root} is not written to: {error}"
    else:
        return None
    return f"{reason}; the copy of {folder.path} on the mirror is behind it"


def _switch(
    mirror: Mirror,
    folder: RunFolder,
    record: dict[str, Any],
    before: Generation | None,
    home: Path,
    entries: dict[str, File],
) -> None:
    same = before is not None and entries["config.yaml"] == before.files["config.yaml"]
    names = [Path(name).name for name in entries if name.startswith("checkpoints/")]
    made = Generation(
        home=home,
        number=before.number + 1 if before else 1,
        run=mirror.run,
        identity=identity(record),
        starts=starts(record),
        progress=Progress.of(names, finished=len(record["steps"]), complete="summary.json" in entries),
        time=clock.date(),
        config=before.config if before and same else folder.frozen(),
        files=entries,
    )
    if before and made.progress < before.progress:
        raise UserError(f"it is ahead ({before.progress}) of {folder.path} ({made.progress})")
    made.write()
    if before:
        before.remove(kept=made)


def _bring_back(mirror: Mirror, folder: RunFolder, values: dict[str, Any]) -> list[str]:
    """Put the copy in place of a run folder that is lost, damaged or behind it; what there is to say.

    The folder as it was is kept under another name. UserError: the copy is of another run, or not whole.
    """
    partial = folder.place.with_name(f"tmp-{folder.place.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    here = progress.read(folder)
    if here is None:
        found = _of_this_name(mirror, folder, values)
        why = ", since its run.json or config.yaml was not whole" if folder.checkpoints.is_dir() else ""
        return _put_in_place(found, folder, partial, why) if found else []
    record = folder.read_record()
    found = _of_identity(mirror, folder, record)
    if found is None:
        return []
    if identity_differences(values, found.config) and not is_extension(values, found.config):
        return []  # the folder's own configuration is compared by whoever opens it
    lost = _lost(folder, record, found)
    if found.progress > here or (lost and found.progress == here):
        why = f": {'; '.join(lost)} here" if lost else f", which is ahead (here: {here})"
        if found.run != mirror.run:
            why = f", where it is {found.run}{why}"
        return _put_in_place(found, folder, partial, why, here=here, mine=found.run == mirror.run, rows=bool(lost))
    if lost:  # who goes on without the rows keeps what the mirror has of them
        leaves = found.run == mirror.run and found.number and values["resume"] == "incomplete"
        there = _set_aside(found) if leaves else found.home
        return [f"{there} has rows that are missing here, up to {found.progress}, and is behind (here: {here})"]
    if found.run != mirror.run:
        return []  # of a folder that this one was copied from, or has been before it was renamed
    if found.number and not _leads_to(found.starts, starts(record)):
        return [f"The copy on the mirror has gone another way ({found.progress}); it is kept in {_set_aside(found)}"]
    generation.tidy(found.home)
    return []


def _of_identity(mirror: Mirror, folder: RunFolder, record: dict[str, Any]) -> Generation | None:
    """The copy of this very run that is farthest: of this name, or, if there is none, of another."""
    own = identity(record)
    homes = files.matching((mirror.root / mirror.run).parent, f"*-{escape(own)}")
    found = [*map(generation.newest, homes), generation.plain(mirror.root / folder.path.name)]
    return max(
        (each for each in found if each and each.identity == own),
        key=lambda each: (each.run == mirror.run, each.progress, each.number),
        default=None,
    )


def _of_this_name(mirror: Mirror, folder: RunFolder, values: dict[str, Any]) -> Generation | None:
    """The latest copy of a run of this name and configuration. UserError: there are only others of the name."""
    place = mirror.root / mirror.run
    homes = files.matching(place.parent, escape(place.name) + "-" + "[0-9a-f]" * 8)
    copies = [*map(generation.newest, homes), generation.plain(mirror.root / folder.path.name)]
    named = [each for each in copies if each and each.run == mirror.run]
    differing = [identity_differences(values, each.config) for each in named]
    same = [each for each, keys in zip(named, differing, strict=True) if not keys or is_extension(values, each.config)]
    if named and not same:
        raise UserError(
            f"{named[-1].home} is the copy of another run of this name ({named[-1].progress}):\n"
            f"{Differing.of(differing[-1], values, named[-1].config, given()).tell()}\n"
            "  Give this one its own name=…, or say resume=fresh to start anew; the copy stays"
        )
    return max(same, key=lambda each: each.time, default=None)


def _refuse_loss(before: Generation, folder: RunFolder, record: dict[str, Any]) -> None:
    if not _leads_to(before.starts, starts(record)):
        raise UserError(f"another process has gone on with this run there ({before.progress})")
    lost = _lost(folder, record, before)
    if lost:
        raise UserError(f"it has what is missing here: {'; '.join(lost)}")


def _store(folder: RunFolder, home: Path, known: dict[str, File], entries: dict[str, File]) -> None:
    """Copy to `home` what is not `known` there, and enter all files of the new generation."""
    fresh = set()
    published = digest_list.published(folder)
    for source in generation.copied(folder):
        name = source.relative_to(folder.path).as_posix()
        same = known.get(name)
        if same and _is_unchanged(source, same, name) and same.is_there(home, name):
            entries[name] = same
            continue
        if name in published and files.digest(source) != published[name]:
            continue  # damaged: what the mirror has of it stays
        try:
            entry = generation.take(source, home, name)
        except FileNotFoundError:
            if source.exists() or generation.NEEDED.fullmatch(name):
                raise
            continue  # what works beside the run, graphs or W&B, has taken it away
        entries[name] = entry
        fresh.add((home / name).parent)
        if not generation.fits(name, entry.sha256 or ""):
            generation.remove(generation.places(home, {name: entries.pop(name)}))
    for name, entry in known.items():
        if name not in entries and name.startswith(KEPT) and entry.is_there(home, name):
            entries[name] = entry
    for each in fresh:
        files.sync_folder(each)


def _is_unchanged(source: Path, known: File, name: str) -> bool:
    if name.startswith("checkpoints/"):
        return True  # the name has the digest
    stat = source.stat()
    return (stat.st_size, stat.st_mtime_ns) == (known.bytes, known.changed)


def _lost(folder: RunFolder, record: dict[str, Any], copy: Generation) -> list[str]:
    """Rows that are missing here and that a copy has more of, one line a step."""
    rows = {folder.path / name: entry.bytes for name, entry in copy.files.items() if name.endswith(".jsonl")}
    more = any(size > (path.stat().st_size if path.exists() else 0) for path, size in rows.items())
    return tally.missing_rows(folder, record) if more else []


def _put_in_place(
    found: Generation,
    folder: RunFolder,
    partial: Path,
    why: str,
    *,
    here: Progress | None = None,
    mine: bool = True,
    rows: bool = False,
) -> list[str]:
    """Restore a copy beside the run folder, then give it the folder's name.

    That only if it is farther than what is `here`, or as far and has `rows` that are missing here; else it is set
    aside, if it is `mine` and no other folder's. UserError: nothing is here, and the copy is not whole. Of its
    checkpoints, one that is whole is enough.
    """
    damaged = found.restore(partial)
    lines = [f"Note: {counted(len(damaged), 'damaged file')} of {found.home}: {', '.join(damaged)}"] if damaged else []
    needed = [name for name in damaged if generation.NEEDED.fullmatch(name)]
    there = None if needed else progress.read(RunFolder(partial))
    if there and (here is None or there > here or (rows and there == here)):
        aside = folder.replace_by(partial)
        kept = f"; the folder as it was is kept as {aside}" if aside else ""
        return [*lines, f"Brought {folder.path} back from its mirror ({there}){why}{kept}"]
    shutil.rmtree(partial)
    if here is None:
        raise UserError(
            f"the copy in {found.home} is damaged: {', '.join(needed) or 'run.json'}. Repair it, or say name=… or "
            "resume=fresh to start anew; the copy stays"
        )
    return [*lines, f"It is kept in {_set_aside(found) if mine else found.home}, and the run goes on from {here}"]


def _set_aside(copy: Generation) -> Path:
    return copy.home.rename(free_name(copy.home))


def _leads_to(earlier: list[str], later: list[str]) -> bool:
    """Whether a run with the starts `later` has gone on from what one with the starts `earlier` was."""
    return later[: len(earlier)] == earlier
