"""Checks of a folder of images against its captions by names alone, before any picture is opened."""

import errno
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from fluxflow_exp.data.decoding import EXTENSIONS
from fluxflow_exp.data.images import Entry
from fluxflow_exp.data.protocols import Bad
from fluxflow_exp.errors import counted

SHOWN = 3  # names in a line
ASKED = 1000  # missing names that a cause is looked for of
MANY = 100_000  # files among which those of a missing name are looked for
HEADERS = ("file_name", "filename", "file", "name", "image", "image_path", "path")  # of a first line
DISK = (errno.EIO, errno.ESTALE)  # what a disk or a mount that fails answers; other errors are of the name


def no_folder(path: str | Path) -> str:
    """Say that there is none."""
    return f"there is no folder {path}" + (": it is a file, and an archive is to be unpacked" * os.path.isfile(path))


class Listing:
    """The files of the subfolders of `folder` that `names` stand in, each subfolder listed once."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.folder = folder
        self.files = {parent: _files(folder / parent) for parent in dict.fromkeys(map(os.path.dirname, names))}
        self._others: dict[str, frozenset[str] | None] = {}  # where none of the names stand

    def holds(self, name: str) -> bool:
        parent, leaf = os.path.split(name)
        if parent not in self.files and parent not in self._others:
            self._others[parent] = _files(self.folder / parent)
        known = self.files[parent] if parent in self.files else self._others[parent]
        return leaf in known if known is not None else (self.folder / name).is_file()

    @cached_property
    def leaves(self) -> dict[str, str]:
        """Name of a file in the folder or below it → where the first one of this name is; of very many not all."""
        found: dict[str, str] = {}
        for parent, folders, files in os.walk(self.folder):
            folders.sort()
            inner = os.path.relpath(parent, self.folder)
            found = {name: os.path.normpath(os.path.join(inner, name)) for name in files} | found
            if len(found) > MANY:
                break
        return found

    def pictures(self) -> list[str]:
        """The files whose extension is that of a picture; hidden ones, as macOS leaves them behind, are none."""
        return [
            os.path.join(parent, name)
            for parent, names in self.files.items()
            for name in sorted(names or ())
            if not name.startswith(".") and os.path.splitext(name)[1][1:].lower() in EXTENSIONS
        ]


def notes(entries: list[Entry], bare: list[str], listing: Listing) -> list[str]:
    """A line for each thing that is odd about names and captions; `bare`: the captions without a prefix."""
    names = {entry.id for entry in entries}
    missing = missing_of(entries, listing)
    found = [line(missing, "picture", f"not in {listing.folder}", cause(missing, listing))] if missing else []
    empty = [entry.id for entry, caption in zip(entries, bare, strict=True) if not caption]
    lonely = [name for name in listing.pictures() if name not in names]
    twice = [entry.id for entry, count in Counter(entries).items() if count > 1]
    found += [line(empty, "caption", "empty")] if empty else []
    found += [line(twice, "line", "there more than once")] if twice else []
    found += [line(lonely, "picture", f"without a caption in {listing.folder}, and not trained on")] if lonely else []
    return found


def missing_of(entries: list[Entry], listing: Listing) -> list[str]:
    """Names of entries that the folder does not hold."""
    return [name for name in dict.fromkeys(entry.id for entry in entries) if not listing.holds(name)]


def cause(missing: list[str], listing: Listing) -> str:
    """Return what most missing names have in common, if known, with what is there instead of the first."""
    found = [(_cause(name, listing), name) for name in missing[:ASKED]]
    (reason, count), *_ = Counter(reason for (reason, _), _ in found).most_common(1)
    if not reason or 2 * count <= len(found):
        return ""
    instead, name = next((instead, name) for (why, instead), name in found if why == reason)
    return f"{reason} ({instead!r} for {name!r})" if instead else reason


def _cause(name: str, listing: Listing) -> tuple[str, str]:
    """Say why a name may be missing, and what is there instead; empty: nobody knows."""
    parent, leaf = os.path.split(name)
    bare, slashed = name.strip("\"'"), name.replace("\\", "/")
    if name.lower() in HEADERS:
        return "the first line names columns, and is read as a picture: take it away", ""
    if bare != name and listing.holds(bare):
        return "quotes belong to the names here: take them away", bare
    if slashed != name and listing.holds(slashed):
        return "the names have backslashes where a slash parts folders", slashed
    first, _, rest = name.partition("/")
    if parent and listing.folder.name == first and listing.holds(rest):
        return f"the names begin with {first}/, and data_path is that folder: give the one above it", rest
    if parent and leaf in (_files(listing.folder) or ()):
        return f"the names begin with {parent}/, and the files stand in data_path itself", leaf
    there = listing.files.get(parent) or frozenset()
    same = sorted(other for other in there if other.lower() == leaf.lower())
    if same:
        return "upper and lower case differ", same[0]
    stem = os.path.splitext(leaf)[0]
    other = [each for each in (f"{stem}.{extension}" for extension in EXTENSIONS) if each in there]
    if other:
        return "the extension is another one there", other[0]
    return _elsewhere(slashed, listing)


def _elsewhere(name: str, listing: Listing) -> tuple[str, str]:
    """The same of a name that has slashes alone, and of files that are not where it says."""
    for form in ("NFC", "NFD"):
        composed = unicodedata.normalize(form, name)
        if composed != name and listing.holds(composed):
            return f"the files' names are Unicode {form}, and those in the captions are not: write them so", composed
    plain = unquote(name)
    if plain != name and listing.holds(plain):
        return "the names are written as in addresses of the web, and the files' are not", plain
    parts = name.split("/")
    for count in range(1, len(parts)):
        rest = "/".join(parts[count:])
        if listing.holds(rest):
            before = "/".join(parts[:count])
            return f"names are relative to data_path, and {before}/ is no part of that: take it away", rest
    place = listing.leaves.get(parts[-1])
    return ("names are relative to data_path, and the files stand elsewhere in it", place) if place else ("", "")


def _files(folder: Path) -> frozenset[str] | None:
    """Names of what stands in a folder that is no folder itself; none without a folder. None: it is not to be listed.

    OSError: the disk does not give it.
    """
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if not entry.is_dir(follow_symlinks=False))
    except PermissionError:
        return None
    except OSError as error:
        if error.errno in DISK:
            raise
        return frozenset()
    except ValueError:  # no folder can have such a name
        return frozenset()


def unusable(bad: Bad, what: str) -> list[str]:
    """A line about each `what`, in the singular, found to be none before anything is read, if any."""
    shown = "; ".join(f"{name}: {reason}" for name, reason in bad[:SHOWN])
    return [f"{counted(len(bad), what)} cannot be used: {shown}" + ("; …" if len(bad) > SHOWN else "")] if bad else []


def line(names: list[str], what: str, is_what: str, why: str = "") -> str:
    """Return how many there are, and the first ones."""
    shown = ", ".join(repr(name) for name in names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    verb = "is" if len(names) == 1 else "are"
    return f"{counted(len(names), what)} {verb} {is_what}: {shown}" + (f". Cause: {why}" if why else "")
