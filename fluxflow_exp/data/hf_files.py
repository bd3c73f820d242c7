"""Which files of a folder `datasets` takes for a set, and which of them keep it from being one: it names none, or many.

https://huggingface.co/docs/datasets/repository_structure
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

MOST = 200  # files that are looked at
SHOWN = 3
APART = "What is no part of the set is to stand elsewhere"


class Taken(NamedTuple):
    """What kind of files a folder is taken to hold (csv, parquet, imagefolder, …), and those that are read as it."""

    folder: Path
    kind: str
    files: list[str]

    @property
    def words(self) -> str:
        names = ", ".join(map(self.name, self.files[:SHOWN])) + (", …" if len(self.files) > SHOWN else "")
        if self.kind == "imagefolder":
            names = names or "pictures alone, without metadata.csv, metadata.jsonl or metadata.parquet"
        return f"read as {self.kind}: {names}"

    def name(self, file: str) -> str:
        path = Path(file)
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else file


def taken(folder: Path, config_name: str | None) -> Taken | None:
    """Of a folder of pictures its metadata alone; None: it is no such folder."""
    import datasets

    with suppress(Exception), quiet():  # it is told of as an error of the whole set
        builder = datasets.load_dataset_builder(str(folder), config_name)
        files = [str(file) for part in (builder.config.data_files or {}).values() for file in part]
        kind = str(builder.info.builder_name)
        if kind == "imagefolder":
            files = [file for file in files if Path(file).name.startswith("metadata.")]
        return Taken(folder.resolve(), kind, list(dict.fromkeys(files)))
    return None


def fault(found: Taken) -> str:
    """The file that cannot be read, or those whose columns differ; empty: each by itself, as far as looked at, can."""
    columns: dict[tuple[str, ...], list[str]] = {}
    with quiet():
        for file in found.files[:MOST]:
            try:
                columns.setdefault(_columns(found.kind, file), []).append(found.name(file))
            except Exception as error:  # of any library that it reads files with
                return f"{found.name(file)} cannot be read as {_what(found.kind)}: {root(error)}. {APART}"
    if len(columns) < 2:
        return ""
    sides = sorted(columns.items(), key=lambda side: len(side[1]))[:SHOWN]
    shown = "; ".join(f"{_some(names)} {', '.join(map(repr, there)) or 'none'}" for there, names in sides)
    return f"its files do not have the same columns: {shown}. {APART}"


def root(error: Exception) -> str:
    """The first line of what is at the root of an error."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


@contextmanager
def quiet() -> Iterator[None]:
    """Without what `datasets` logs of a file that it cannot read: it stands in the error."""
    from datasets.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _columns(kind: str, file: str) -> tuple[str, ...]:
    import datasets

    rows: Any = datasets.load_dataset(kind, data_files=[file], split="train", streaming=True)
    return tuple(next(iter(rows), {}))


def _what(kind: str) -> str:
    return "metadata of pictures" if kind == "imagefolder" else kind


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more have"
