"""The outcome of a run without its times: all that must not depend on interruptions."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from fluxflow_exp.run.metric_log import read_rows

TIMES_OF_ROWS = ("timestamp", "extras")
TIMES_OF_STATES = ("seconds",)


def differences(first: Path, second: Path) -> tuple[list[str], dict[str, int]]:
    """Compare two run folders: a line for each difference, and how much of each kind was compared.

    Compared: every tensor and fact of the published weights; every tensor and number of the last checkpoint of each
    step (optimizers, averages, schedules); every metric row; every picture's bytes.
    """
    found: list[str] = []
    counts: dict[str, int] = {}
    for kind, read in (("tensors", _weights), ("states", _states), ("rows", _rows), ("pictures", _pictures)):
        mine, theirs = read(first), read(second)
        counts[kind] = len(mine)
        for name in sorted({*mine, *theirs}):
            if name not in mine or name not in theirs:
                found.append(f"{name} is in {'the second' if name in theirs else 'the first'} run alone")
            elif not _same(mine[name], theirs[name]):
                found.append(f"{name} differs{_by_how_much(mine[name], theirs[name])}")
    return found, counts


def _weights(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted((run / "weights").glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {f"weights/{path.name}: {name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            found[f"weights/{path.name}: facts"] = file.metadata()
    return found


def _states(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted((run / "checkpoints").glob("*-final-*.pt")):
        state = torch.load(path, map_location="cpu", weights_only=True)
        name = path.name.rpartition("-")[0]
        found |= _flat({k: v for k, v in state.items() if k not in TIMES_OF_STATES}, f"checkpoints/{name}: ")
    return found


def _rows(run: Path) -> dict[str, Any]:
    return {
        f"graph/{path.name}: row {index}": {k: v for k, v in row.items() if k not in TIMES_OF_ROWS}
        for path in sorted((run / "graph").glob("*.jsonl"))
        for index, row in enumerate(read_rows(path), start=1)
    }


def _pictures(run: Path) -> dict[str, Any]:
    return {f"samples/{path.name}": path.read_bytes() for path in sorted((run / "samples").glob("*.webp"))}


def _flat(value: Any, path: str) -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = dict(enumerate(value)).items()
    else:
        return {path.rstrip("."): value}
    return {name: leaf for key, child in items for name, leaf in _flat(child, f"{path}{key}.").items()}


def _same(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, Tensor) and isinstance(theirs, Tensor):
        # Bytes, so that a NaN equals itself.
        return mine.dtype == theirs.dtype and mine.shape == theirs.shape and _bytes(mine).equal(_bytes(theirs))
    if isinstance(mine, dict):
        return json.dumps(mine, sort_keys=True) == json.dumps(theirs, sort_keys=True)
    return bool(mine == theirs)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _by_how_much(mine: Any, theirs: Any) -> str:
    if not (isinstance(mine, Tensor) and isinstance(theirs, Tensor)) or mine.shape != theirs.shape:
        return ""
    return f" by up to {(mine.double() - theirs.double()).abs().max():.3g}"
