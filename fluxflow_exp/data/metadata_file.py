"""Hugging Face's ImageFolder metadata: a table with a column file_name, and here one named text or caption.

A picture may have several captions: rows of the same file_name, or a list in the column of captions. A column
caption_weight has the weight of each, 1 where it is missing.
A column split_group, where there is one, names pictures that are held out together or not at all, as
`python -m fluxflow_exp.data.check --fix` writes it of near duplicates.
https://huggingface.co/docs/datasets/image_dataset
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fluxflow_exp.data.caption_choice import WEIGHT, weight_of, weights_of
from fluxflow_exp.data.captions import Row, decoded, lines_of, one_line

NAME, CAPTIONS, GROUP = "file_name", ("text", "caption"), "split_group"


def of_jsonl(path: Path) -> Iterator[Row]:
    """An object a line. OSError, UnicodeDecodeError."""
    for number, line in enumerate(lines_of(path), start=1):
        if line.strip():
            where = f"{path.name}:{number}"
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Row(where, wrong=f"is no JSON: {error}")
                continue
            yield from _rows(where, fields) if isinstance(fields, dict) else [Row(where, wrong="is no JSON object")]


def of_csv(path: Path) -> Iterator[Row]:
    """A table with commas, texts in double quotes where they hold some. ValueError: it is none."""
    reader = csv.DictReader(io.StringIO(decoded(path.read_bytes()), newline=""), strict=True)
    try:
        _check_columns(reader.fieldnames or [])
        for fields in reader:
            where = f"{path.name}:{reader.line_num}"
            whole = None not in fields and None not in fields.values()
            wrong = "more or fewer fields than columns: double quotes belong around a text with commas"
            yield from _rows(where, fields) if whole else [Row(where, wrong=wrong)]
    except csv.Error as error:
        raise ValueError(f"line {reader.reader.line_num}: {error}") from error


def of_parquet(path: Path) -> Iterator[Row]:
    """A table as `datasets` writes it. ValueError: pyarrow, which alone reads it, is not installed."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError("this format needs pyarrow, which is not installed: pip install pyarrow") from error
    with path.open("rb") as file, ParquetFile(file) as table:
        columns = table.schema_arrow.names
        _check_columns(columns)
        number = 0
        wanted = (NAME, *CAPTIONS, WEIGHT, GROUP)
        for batch in table.iter_batches(columns=[each for each in wanted if each in columns]):
            for fields in batch.to_pylist():
                number += 1
                yield from _rows(f"{path.name}:{number}", fields)


def _check_columns(columns: Iterable[str]) -> None:
    """ValueError: there is no column of names, or not exactly one of captions."""
    named = ", ".join(map(repr, columns)) or "none"
    between = next((each for each in (";", "|") if any(each in column for column in columns)), None)
    if NAME not in columns and between:
        raise ValueError(f"it has {between!r} between its columns ({named}), and a comma is read: save it with commas")
    if NAME not in columns:
        raise ValueError(
            f"it has no column {NAME} (its columns: {named}). A file of name<TAB>caption lines is to end with .tsv"
        )
    if sum(each in columns for each in CAPTIONS) != 1:
        raise ValueError(f"one column must be named text or caption, and only one (its columns: {named})")


def _rows(where: str, fields: dict[str, Any]) -> list[Row]:
    """Return a row for each caption of a picture, or one that says what is wrong."""
    given = [key for key in CAPTIONS if fields.get(key) not in (None, [])]
    if len(given) != 1:
        return [Row(where, wrong="both a text and a caption: one of them is to go" if given else "no text or caption")]
    name, found, weight = fields.get(NAME), fields[given[0]], fields.get(WEIGHT)
    captions = found if isinstance(found, list) else [found]
    if not isinstance(name, str):
        return [Row(where, wrong=f"no {NAME}")]
    if not all(isinstance(caption, str) for caption in captions):
        return [Row(where, wrong=f"its {given[0]} is no text{' or list of texts' if captions is found else ''}")]
    group = fields.get(GROUP) or None
    if not isinstance(group, str | None):
        return [Row(where, wrong=f"its {GROUP} is no text")]
    try:
        weights = weights_of(weight, len(captions)) if captions is found else [weight_of(weight)]
    except ValueError as error:
        return [Row(where, wrong=str(error))]
    pairs = zip(captions, weights, strict=True)
    return [Row(where, name.strip(), one_line(each), group=group, weight=weight) for each, weight in pairs]
