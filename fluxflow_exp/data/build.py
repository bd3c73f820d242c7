"""Which data a step trains on: checked before any of it is read, then opened."""

import os
from typing import Any

from fluxflow_exp.config.compose import instantiate
from fluxflow_exp.config.schema import RunConfig, Step
from fluxflow_exp.data.mixture import Mixture
from fluxflow_exp.data.protocols import DataSet, Stream, digest
from fluxflow_exp.errors import UserError, did_you_mean


def path_problems(data: Any, where: str) -> list[str]:
    """Folders and files that `data` names and that do not exist; for several data sets, those of each."""
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
            found.append(f"{where}.{key}: there is no folder {path}")
        if key.endswith("_file") and not os.path.isfile(path):
            found.append(f"{where}.{key}: there is no file {path}")
    return found


def problems(picked: Any, data: dict[str, Any], where: str) -> list[str]:
    """What is wrong with a step's `data`: none, a data set of its own, or with data=multi a name or weights."""
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


def digest_of(data: DataSet) -> str | None:
    """A digest of what is trained on and judged by: names, captions, sizes, and how they are read. None: a stream."""
    if isinstance(data.train, Stream):
        return None
    return digest([data.train.fingerprint(times=False), data.validation.fingerprint(times=False)])[:16]


def build_data(config: RunConfig) -> dict[str, Any]:
    """Step → its data set; every step's is opened before the first one trains, each once."""
    built: dict[str, Any] = {}

    def build(node: Any, where: str) -> Any:
        key = repr(node)
        try:
            if key not in built:
                built[key] = instantiate(node)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        return built[key]

    def chosen(name: str, step: Step) -> Any:
        where = "data" if step.data is None else f"stage.steps.{name}.data"
        if "datasets" not in config.data:
            return build(config.data if step.data is None else step.data, where)
        picked = config.data["default"] if step.data is None else step.data
        if isinstance(picked, str):
            return build(config.data["datasets"][picked], f"data.datasets.{picked}")
        if "_target_" in picked:
            return build(picked, where)
        sets = {each: build(config.data["datasets"][each], f"data.datasets.{each}") for each in picked}
        try:
            return Mixture(sets, picked)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error

    return {name: chosen(name, step) for name, step in config.stage.steps.items()}
