"""Captions beside the pictures: `a.txt` or `a.caption` is what `a.jpg` shows, in a folder and all below it.

Such a file is one caption, or, as some trainers have it, each of its lines is one.
"""

import os
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from rich.progress import track

from fluxflow_exp.data import folder_notes
from fluxflow_exp.data.captions import Row, decoded, not_utf8, one_line
from fluxflow_exp.data.decoding import EXTENSIONS, check_regular, reason

SUFFIXES = (".txt", ".caption")


class Found(NamedTuple):
    """Names relative to the folder."""

    pictures: list[str]
    texts: dict[str, list[str]]  # name without extension → caption files
    links: list[str]  # to folders, which are not looked into


def look(folder: Path) -> Found:
    """List a folder and its subfolders in the order of names; hidden ones and links to folders are left out.

    ValueError: one of them may not be listed.
    """
    pictures, texts, links = [], dict[str, list[str]](), []
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner = os.path.relpath(parent, folder)
        links += [os.path.normpath(os.path.join(inner, name)) for name in folders if os.path.islink(f"{parent}/{name}")]
        for leaf in sorted(name for name in files if not name.startswith(".")):
            name = leaf if inner == os.curdir else os.path.join(inner, leaf)
            stem, suffix = os.path.splitext(name)
            if suffix[1:].lower() in EXTENSIONS:
                pictures.append(name)
            elif suffix.lower() in SUFFIXES:
                texts.setdefault(stem, []).append(name)
    return Found(pictures, texts, links)


def rows(folder: Path, found: Found) -> list[Row]:
    """Return a row for each line, if it is not blank, of each picture's caption file; of an empty file one."""
    captioned = [name for name in found.pictures if os.path.splitext(name)[0] in found.texts]
    reading = track(captioned, description="Reading captions")
    return [row for name in reading for row in _rows(folder, name, found)]


def whole(rows: list[Row]) -> tuple[list[Row], list[str]]:
    """The lines of each file as one caption, and a line about files that have several, if there are some."""
    made, several = [], []
    for (where, name, wrong), group in groupby(rows, key=lambda row: (row.where, row.name, row.wrong)):
        lines = list(group)
        if wrong:
            made += lines
            continue
        made.append(Row(where, name, " ".join(row.caption for row in lines)))
        several += [where] if len(lines) > 1 else []
    what = "of several lines, and read as one caption (captions_file=sidecar_lines: each line is one)"
    return made, [folder_notes.line(several, "text file", what)] if several else []


def notes(folder: Path, found: Found) -> list[str]:
    """Return a line about caption files of no picture, and one about folders that are links, if there are some."""
    stems = {os.path.splitext(name)[0] for name in found.pictures}
    lonely = [name for stem, names in found.texts.items() if stem not in stems for name in names]
    without, is_link = f"without a picture in {folder}", "a link, and not looked into"
    kinds = [(lonely, "text file", without), (found.links, "folder", is_link)]
    return [folder_notes.line(names, what, is_what) for names, what, is_what in kinds if names]


def _rows(folder: Path, picture: str, found: Found) -> list[Row]:
    first, *others = found.texts[os.path.splitext(picture)[0]]
    if others:
        return [Row(picture, wrong=f"has two captions, {first} and {others[0]}: one of them is to go")]
    try:
        check_regular(folder / first)
        text = decoded((folder / first).read_bytes())
    except UnicodeDecodeError as error:
        return [Row(first, wrong=not_utf8(error))]
    except OSError as error:
        return [Row(first, wrong=reason(error))]
    captions = [one_line(line) for line in text.split("\n")]
    return [Row(first, picture, caption) for caption in captions if caption] or [Row(first, picture)]


def _refuse(error: OSError) -> None:
    raise ValueError(f"data_path: {error.filename} cannot be listed: {reason(error)}") from error
