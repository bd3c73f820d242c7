"""COCO captions: one JSON of `images` (id, file_name) and `annotations` (image_id, caption), several a picture.

Chen et al. 2015, arXiv:1504.00325; https://cocodataset.org/#format-data
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fluxflow_exp.data.captions import Row, decoded, one_line


def of_json(path: Path) -> Iterator[Row]:
    """Every caption, in the order of `images`; at the end those of no picture.

    OSError, UnicodeDecodeError. ValueError: it is no such file.
    """
    try:
        whole = json.loads(decoded(path.read_bytes()))
    except RecursionError as error:
        raise ValueError("it is too deeply nested") from error
    images, annotations = _list(whole, "images"), _list(whole, "annotations")
    captions: dict[Any, list[tuple[str, Any]]] = {}
    for number, each in enumerate(annotations):
        found = (f"{path.name}: annotations[{number}]", each.get("caption"))
        captions.setdefault(_key(each.get("image_id")), []).append(found)
    for each in images:
        for where, caption in captions.pop(_key(each.get("id")), []):
            yield _row(where, each.get("file_name"), caption)
    for lonely in captions.values():
        yield from (Row(where, wrong="there is no image of its image_id") for where, _ in lonely)


def _list(whole: Any, name: str) -> list[dict[str, Any]]:
    found = whole.get(name) if isinstance(whole, dict) else None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ValueError(f"it is no COCO captions file: it has no list of objects named {name}")
    return found


def _key(given: Any) -> str:
    """JSON's ids may be numbers or texts, and, in a broken file, anything."""
    return repr(given)


def _row(where: str, name: Any, caption: Any) -> Row:
    if not isinstance(name, str):
        return Row(where, wrong="its image has no file_name")
    if not isinstance(caption, str):
        return Row(where, wrong="no caption")
    return Row(where, name.strip(), one_line(caption))
