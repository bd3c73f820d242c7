"""What the pictures of a folder show, in each form that people keep it in.

`captions_file` is the word `sidecar` or `sidecar_lines`, or a file whose suffix says what it holds: `.jsonl`, `.csv`
and `.parquet` are Hugging Face's ImageFolder metadata, `.json` is a COCO captions file, any other one has
name<TAB>caption lines. Different captions of one picture, in whatever rows, are several to choose from.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from fluxflow_exp.data import coco_captions, folder_notes, metadata_file, sidecars
from fluxflow_exp.data.caption_choice import WEIGHT, weight_of
from fluxflow_exp.data.captions import Row, lines_of, not_utf8, prefixed, surrogate_in
from fluxflow_exp.data.images import Entry
from fluxflow_exp.data.protocols import Bad
from fluxflow_exp.data.several_captions import joined

SIDECAR = "sidecar"  # a caption a file
FORMS = (
    "a file (name<TAB>caption lines; .jsonl, .csv or .parquet metadata; COCO .json), or sidecar: a text beside each "
    "picture"
)
SIDECARS = (SIDECAR, "sidecar_lines")  # or a caption a line


class Captions(NamedTuple):
    """Entries with their captions, unusable captions as (where, reason), and what is to be said of the form."""

    entries: list[Entry]
    bad: Bad
    notes: list[str]
    pictures: list[str]  # known to be there, with a caption or not

    def joined(self, other: "Captions") -> "Captions":
        return Captions(
            self.entries + other.entries,
            self.bad + other.bad,
            self.notes + other.notes,
            self.pictures + other.pictures,
        )


class _Form(NamedTuple):
    rows: Callable[[Path], Iterable[Row]]
    wanted: str  # what one caption of it looks like
    own_folder: bool = False  # names are relative to the folder that the file stands in


_LINE = "no line of the form name<TAB>caption"
_TABLE = "no row with a file_name and a text or caption"
_FORMS = {
    ".jsonl": _Form(metadata_file.of_jsonl, _TABLE, own_folder=True),
    ".csv": _Form(metadata_file.of_csv, _TABLE, own_folder=True),
    ".parquet": _Form(metadata_file.of_parquet, _TABLE, own_folder=True),
    ".json": _Form(coco_captions.of_json, "no annotation with a caption of an image"),
}


def read_captions(given: str, folder: Path, *, prefix: str | None = None, key: str = "captions_file") -> Captions:
    """Return the captions that `given`, the value of `key`, has of the pictures of `folder`.

    Names are relative to `folder`; those of metadata that stands in a subfolder of it, to that subfolder.
    ValueError: missing, not UTF-8, not in the form that its suffix says, or without a single entry.
    """
    if given in SIDECARS:
        found = sidecars.look(folder)
        rows, notes = sidecars.rows(folder, found), sidecars.notes(folder, found)
        if given == SIDECAR:
            rows, more = sidecars.whole(rows)
            notes += more
        entries, bad = _sorted_out(rows, prefix)
        wanted = "no picture with a caption beside it (a.txt or a.caption for a.jpg)"
        _check_some(entries, bad, ". ".join([f"{key}={given}: {folder} holds {wanted}", *notes]))
        return Captions(entries, bad, notes, list(found.pictures))
    path = Path(given).expanduser()
    if path.is_dir():
        raise ValueError(f"{key}: {path} is a folder, and captions are {FORMS}")
    form = _FORMS.get(path.suffix.lower(), _Form(_of_lines, _LINE))
    try:
        rows = list(form.rows(path))
    except FileNotFoundError as error:
        raise ValueError(f"{key}: {no_file(path, folder)}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{key}: {path} {not_utf8(error)}; convert it, e.g. with iconv, or save it anew") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{key}: {path} cannot be read: {error}") from error
    entries, bad = _sorted_out(rows, prefix)
    _check_some(entries, bad, f"{key}: {path} holds {form.wanted}")
    if form.own_folder:
        entries = _below(path, folder, entries)
    return Captions(entries, bad, _odd(rows) if form.wanted == _LINE else [], [])


def no_file(path: Path, folder: Path) -> str:
    """Say that a captions file is not there; who names one within the folder of pictures is told so."""
    inside = folder / path
    return f"there is no file {path}" + (f"; one of this name is {inside}" if inside.is_file() else "")


def _odd(rows: list[Row]) -> list[str]:
    """Lines about what name<TAB>caption lines hold that looks like the columns and quotes of another form."""
    tabs = [row.name for row in rows if "\t" in row.caption]
    quoted = [row.name for row in rows if len(row.caption) > 1 and row.caption[0] == row.caption[-1] == '"']
    is_tabs = "in several columns, and all after the name is trained on, tabs as well"
    found = [(tabs, is_tabs), (quoted, "in double quotes, which are trained on as well")]
    return [folder_notes.line(names, "caption", is_what) for names, is_what in found if names]


def _of_lines(path: Path) -> Iterator[Row]:
    """The lines name<TAB>caption of a file; further tabs are caption, blank lines nothing.

    Where the first line names the columns, the last of them is the caption's weight.
    """
    weighted = False
    for number, line in enumerate(lines_of(path), start=1):
        if number == 1 and _names_weights(line):
            weighted = True
        elif line.strip():
            where = f"{path.name}:{number}"
            name, tab, caption = line.partition("\t")
            yield (
                _weighed(where, name, caption)
                if weighted and tab
                else Row(where, name.strip(), caption.strip(), "" if tab else "no tab between name and caption")
            )


def _names_weights(line: str) -> bool:
    name, _, columns = line.strip().partition("\t")
    return name in ("name", "file_name") and columns in (f"caption\t{WEIGHT}", f"text\t{WEIGHT}")


def _weighed(where: str, name: str, rest: str) -> Row:
    """A row of caption<TAB>weight."""
    caption, tab, weight = rest.rpartition("\t")
    try:
        return Row(
            where,
            name.strip(),
            caption.strip() if tab else rest.strip(),
            weight=weight_of(weight.strip() if tab else ""),
        )
    except ValueError as error:
        return Row(where, wrong=str(error))


def _sorted_out(rows: Iterable[Row], prefix: str | None) -> tuple[list[Entry], Bad]:
    found, bad = [], []
    for row in rows:
        wrong = row.wrong or _fault(row)
        if wrong:
            bad.append((row.where, wrong))
        else:
            found.append((Entry(row.name, prefixed(row.caption, prefix), row.name, row.group), row.weight))
    return joined(found), bad


def _fault(row: Row) -> str:
    if not row.name:
        return "no name"
    try:
        for name in (row.name, row.group or ""):  # as Python has the bytes of file names that are not UTF-8
            name.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return "no file can have this name" if name == row.name else "its split_group is no text that can be written"
    broken = surrogate_in(row.caption)
    return f"its caption holds {broken}" if broken else ""


def _check_some(entries: list[Entry], bad: Bad, message: str) -> None:
    if not entries:
        raise ValueError(message + (f". First: {': '.join(bad[0])}" if bad else ""))


def _below(path: Path, folder: Path, entries: list[Entry]) -> list[Entry]:
    """Names relative to where the metadata stands, as ImageFolder has them, become relative to `folder`."""
    parent, top = path.resolve().parent, folder.resolve()
    if parent == top or not parent.is_relative_to(top):
        return entries
    inner = parent.relative_to(top).as_posix()
    return [entry._replace(id=f"{inner}/{entry.id}", place=f"{inner}/{entry.id}") for entry in entries]
