"""Rows of a set of Hugging Face's `datasets`: captions, names, and pictures as they are stored, bytes or files.

https://huggingface.co/docs/datasets
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fluxflow_exp.data import hf_files, sidecars
from fluxflow_exp.data.caption_choice import weight_of, weights_of
from fluxflow_exp.data.captions import one_line, prefixed, surrogate_in
from fluxflow_exp.data.images import Entry, file_state
from fluxflow_exp.data.protocols import Bad
from fluxflow_exp.data.several_captions import entry_of
from fluxflow_exp.errors import did_you_mean
from fluxflow_exp.machine import network

BATCH = 1000  # rows that are looked at together
BYTES, TEXTS = ("binary", "large_binary"), ("string", "large_string")
TABLES = (".parquet", ".arrow", ".csv", ".tsv", ".json", ".jsonl", ".tar", ".zip", ".gz", ".bz2", ".xz", ".zst")
FORMS = (
    "taken are the folders of save_to_disk, of parquet, arrow, CSV or JSON files, and of pictures with metadata.csv, "
    "metadata.jsonl or metadata.parquet (imagefolder)"
)
ELSEWHERE = (
    "Where there is a network, datasets.load_dataset(…).save_to_disk(FOLDER) writes what data.data_path=FOLDER takes"
)
SAVED = ("state.json", "dataset_dict.json")
INSTALL = 'pip install "fluxflow-exp[datasets]"'


class Place(NamedTuple):
    """A set: a `folder`, or `name` of the hub, with the name of its configuration and a revision."""

    folder: Path | None
    name: str | None
    config_name: str | None
    revision: str | None

    @property
    def words(self) -> str:
        return f"data_path: {self.folder}" if self.folder else f"dataset_name: {self.name}"

    @property
    def saved(self) -> bool:
        """Whether it is what `save_to_disk` has written."""
        return any((self.folder / name).is_file() for name in SAVED) if self.folder else False

    def taken(self) -> hf_files.Taken | None:
        """What `datasets` takes of a folder of files; None: it is something else."""
        return hf_files.taken(self.folder, self.config_name) if self.folder and not self.saved else None


class Columns(NamedTuple):
    """Which columns hold what; `captions` with the weight of each."""

    image: str
    captions: dict[str, float]
    weight: str | None
    id: str | None


def opened(place: Place, split: str) -> Any:
    """The `datasets.Dataset` of a split, its pictures not decoded. ValueError: there is none."""
    datasets = _library()
    said = _wrong_form(place.folder) if place.folder and not place.saved else ""
    if said:
        raise ValueError(f"{place.words} cannot be opened as a data set: {said}")
    try:
        if place.folder is None:
            return _of_hub(place, split)
        if place.saved:
            return _of_disk(datasets.load_from_disk(str(place.folder)), split)
        with hf_files.quiet():
            return datasets.load_dataset(str(place.folder), place.config_name, split=split)
    except Exception as error:  # of any library that it reads files or the hub with
        taken = place.taken()
        said = (hf_files.fault(taken) if taken else "") or f"{hf_files.root(error)}{_read_as(taken)}"
        raise ValueError(f"{place.words} cannot be opened as a data set: {said}") from error


def _of_hub(place: Place, split: str) -> Any:
    """ConnectionError: it is not on this machine, and the hub does not answer."""
    with network.hub(f"the data set {place.name}") as silent:
        try:
            return _library().load_dataset(place.name, place.config_name, split=split, revision=place.revision)
        except ConnectionError as error:
            said = f"it is not on this machine, and {silent}. {ELSEWHERE}" if silent else str(error)
            raise ConnectionError(said) from None


def _read_as(taken: hf_files.Taken | None) -> str:
    return f" ({taken.words})" if taken else ""


def _wrong_form(folder: Path) -> str:
    """Why it holds no tables or pictures in folders, or captions that `datasets` does not read; empty: it does."""
    if any(Path(name).suffix.lower() in TABLES for _, _, names in os.walk(folder) for name in names):
        return ""
    found = sidecars.look(folder)
    if any(os.path.splitext(name)[0] in found.texts for name in found.pictures):
        return (
            "its captions are text files beside the pictures, which are those of "
            f"data=image_folder data.data_path={folder} data.captions_file=sidecar"
        )
    if any(os.path.dirname(name) for name in found.pictures):  # whose names may be captions: classes
        return ""
    return f"it holds none of the known forms; {FORMS}"


def _of_disk(found: Any, split: str) -> Any:
    """A split of what `save_to_disk` has written, which may be a single one without a name."""
    if isinstance(found, dict):
        if split not in found:
            raise ValueError(f"it has no split {split!r}{did_you_mean(split, found)}. Its splits: {', '.join(found)}")
        return found[split]
    if split not in ("train", str(found.split)):
        raise ValueError(f"it is one set without splits, of which {split!r} cannot be taken")
    return found


class Rows:
    """The rows of `split`, with their entries; those that are none are listed in `bad`. ValueError: wrong columns."""

    def __init__(self, place: Place, split: str, columns: Columns, prefix: str | None) -> None:
        found = opened(place, split)
        try:
            _check(found, columns, split)
        except ValueError as error:
            raise ValueError(f"{error}{_read_as(place.taken())}") from error
        self.split, self.columns, self.prefix = split, columns, prefix
        self.folder = place.folder.resolve() if place.folder else None
        self.fingerprint = found._fingerprint  # another one when the set was written again
        whole = _undecoded(found, columns.image)
        self.pictures = whole.select_columns([columns.image])
        self.sizes: list[int | None] = []  # bytes of each picture; None: it is a file of its own
        self.entries: list[Entry] = []
        self.bad: Bad = []
        self._list(whole)

    def file_of(self, place: int | Path) -> io.BytesIO | Path:
        return place if isinstance(place, Path) else io.BytesIO(self.pictures[place][self.columns.image]["bytes"])

    def state_of(self, place: int | Path) -> Any:
        """Size and time of a picture; of one inside the set, the time is that of the set."""
        return file_state(place) if isinstance(place, Path) else (self.sizes[place], self.fingerprint)

    def _list(self, whole: Any) -> None:
        import pyarrow.compute as compute

        needed = [
            *dict.fromkeys(each for each in (*self.columns.captions, self.columns.weight, self.columns.id) if each)
        ]
        names = {name: whole.features[name].names for name in needed if hasattr(whole.features[name], "names")}
        parts = whole.select_columns([self.columns.image, *needed]).with_format("arrow")
        for table in parts.iter(BATCH):
            stored = table.column(self.columns.image)
            sizes = compute.binary_length(compute.struct_field(stored, "bytes")).to_pylist()
            paths = compute.struct_field(stored, "path").to_pylist()
            values = {name: table.column(name).to_pylist() for name in needed}
            for at, (size, path) in enumerate(zip(sizes, paths, strict=True)):
                fields = {name: column[at] for name, column in values.items()}
                for name, labels in names.items():  # numbers of classes, whose names are the captions
                    fields[name] = None if fields[name] in (None, -1) else labels[fields[name]]
                row = len(self.sizes)
                self.sizes.append(size)
                name = f"{self.split}/{row}"
                try:
                    where: int | Path = row if size is not None else _file(path)
                    name = self._name(fields, where) or name
                    self.entries.append(entry_of(name, list(self._captions(fields)), where))
                except ValueError as error:
                    self.bad.append((name, str(error)))

    def _name(self, fields: dict[str, Any], where: int | Path) -> str | None:
        """What a row is called: its id, or the name of its file within the folder; None: neither is there."""
        if self.columns.id is not None:
            found = fields[self.columns.id]
            if not isinstance(found, str | int) or surrogate_in(str(found)):
                raise ValueError(f"its {self.columns.id} is no text or whole number")
            return str(found)
        if isinstance(where, Path) and self.folder and where.is_relative_to(self.folder):
            return where.relative_to(self.folder).as_posix()
        return None

    def _captions(self, fields: dict[str, Any]) -> Iterator[tuple[str, float]]:
        """The row's captions with their weights. ValueError: there is none, or one that is none."""
        none, named = True, self.columns.weight
        for column, share in self.columns.captions.items():
            found, given = fields[column], fields[named] if named else None
            if found is None or found == []:
                continue
            texts = found if isinstance(found, list) else [found]
            weights = weights_of(given, len(texts), str(named)) if texts is found else [weight_of(given, str(named))]
            for text, weight in zip(texts, weights, strict=True):
                if not isinstance(text, str):
                    raise ValueError(f"its {column} holds what is no text")
                broken = surrogate_in(text)
                if broken:
                    raise ValueError(f"its {column} holds {broken}")
                none = False
                yield prefixed(one_line(text), self.prefix), share * weight / sum(weights)
        if none:
            raise ValueError(f"no {' or '.join(self.columns.captions)}")


def _file(path: str | None) -> Path:
    """The picture that a row names instead of holding it. ValueError: none that is at hand."""
    if not path:
        raise ValueError("no picture")
    if "://" in path:
        raise ValueError(f"its picture is not in the set but at {path}: download it first")
    return Path(path)


def _library() -> Any:
    """ValueError: it is not installed."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"data=hf_dataset needs the library datasets, which is not installed: {INSTALL}") from error
    return datasets


def _undecoded(found: Any, column: str) -> Any:
    """The same set, of whose pictures the bytes or the path are read."""
    try:
        return found.cast_column(column, _library().Image(decode=False))
    except (ValueError, NotImplementedError, TypeError) as error:  # as pyarrow says that a struct is another one
        raise ValueError(f"image_column: {column!r} cannot be read as pictures: {error}") from error


def _check(found: Any, columns: Columns, split: str) -> None:
    """ValueError: a column is not there, or holds something else."""
    datasets = _library()
    named = {"image_column": [columns.image], "caption_column": columns.captions}
    named |= {
        "weight_column": [columns.weight] if columns.weight else [],
        "id_column": [columns.id] if columns.id else [],
    }
    there = list(found.column_names)
    for key, names in named.items():
        for name in names:
            if name not in there:
                shown, meant = ", ".join(map(repr, there)), did_you_mean(name, there) or "."
                raise ValueError(f"{key}: there is no column {name!r}{meant} Those of {split}: {shown}")
    picture = found.features[columns.image]
    stored = isinstance(picture, dict) and {"bytes", "path"} <= picture.keys()
    if not (stored or isinstance(picture, datasets.Image) or getattr(picture, "dtype", "") in BYTES):
        raise ValueError(f"image_column: {columns.image!r} holds {picture}, and no pictures (datasets.Image, or bytes)")
    for name in columns.captions:
        kind = found.features[name]
        inner = getattr(kind, "feature", kind)
        if not isinstance(kind, datasets.ClassLabel) and getattr(inner, "dtype", "") not in TEXTS:
            raise ValueError(f"caption_column: {name!r} holds {kind}, and no texts or lists of texts")
