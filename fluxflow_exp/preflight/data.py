"""Checks of the data that a step names: data sets that are not there, weights that are none, missing files."""

import os
from pathlib import Path
from typing import Any

from fluxflow_exp.data.captions_file import FORMS, SIDECARS, no_file
from fluxflow_exp.data.folder_notes import no_folder
from fluxflow_exp.errors import did_you_mean


def problems(picked: Any, data: dict[str, Any], where: str) -> list[str]:
    """Return a line for each thing wrong with a step's `data`: its own set, or with data=multi names or weights."""
    named = data.get("datasets")
    if named == {}:
        return [f"{where}.data: data.datasets is empty: add +data@data.datasets.NAME=image_folder (or webdataset)"]
    if named is None:
        if picked is None or (isinstance(picked, dict) and "_target_" in picked):
            return path_problems(picked, f"{where}.data")
        return [f"{where}.data={picked!r}: names need data=multi with these data sets"]
    if picked is None:
        picked = data["default"]
        if picked is None:
            return [f"{where}.data is not set: name one of {', '.join(named)}, or set data.default"]
    elif isinstance(picked, dict) and "_target_" in picked:
        return path_problems(picked, f"{where}.data")
    names = [picked] if isinstance(picked, str) else list(picked)
    found = [
        f"{where}.data: there is no data set {name!r}{did_you_mean(name, named)}. Known: {', '.join(named) or 'none'}"
        for name in names
        if name not in named
    ]
    if isinstance(picked, dict):
        found += [
            f"{where}.data: the weight of {name} must be a number ≥ 0, not {weight!r}"
            for name, weight in picked.items()
            if not isinstance(weight, int | float) or weight < 0
        ]
    return found


def path_problems(data: Any, where: str) -> list[str]:
    """Return a line for each folder or file that `data` names and that does not exist; of several sets, of each."""
    if not isinstance(data, dict):
        return []
    found = [
        line
        for name, node in (data.get("datasets") or {}).items()
        for line in path_problems(node, f"{where}.datasets.{name}")
    ]
    for key, value in data.items():
        if not isinstance(value, str) or value == "???" or not key.endswith(("_path", "_file")):
            continue
        path = os.path.expanduser(value)
        if key.endswith("_path") and not os.path.isdir(path):
            found.append(f"{where}.{key}: {no_folder(path)}")
        beside = value in SIDECARS and key in ("captions_file", "held_out_file")
        if key.endswith("_file") and not beside and not os.path.isfile(path):
            folder = os.path.isdir(path)
            wanted = f", and captions are {FORMS}" if key in ("captions_file", "held_out_file") else ", not a file"
            none = no_file(Path(path), Path(os.path.expanduser(str(data.get("data_path") or ""))))
            found.append(f"{where}.{key}: " + (f"{path} is a folder{wanted}" if folder else none))
    return found
