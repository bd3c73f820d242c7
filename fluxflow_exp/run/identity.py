"""The identity of a run: what makes a configuration another run, and what tells runs and their starts apart."""

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

IDENTITY = ("model", "data", "stage", "optimizer", "scheduler", "seed")
# Ends of keys that change no number: where things are and may be, and how many bad samples are borne.
ASIDE = ("_path", "_file", "description", "max_bad_fraction", "cache_gib", "cache_folder")
EXTENSIBLE = ("n_epochs", "max_updates", "minutes")
ABSENT = "(absent)"  # in the place of a value


def identity_differences(config: dict[str, Any], frozen: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key → (frozen value, asked value) for what makes a run another run. Paths may differ: data may move."""
    mine, theirs = _identity(config), _identity(frozen)
    return {
        key: (theirs.get(key, ABSENT), mine.get(key, ABSENT))
        for key in sorted({*mine, *theirs})
        if mine.get(key, ABSENT) != theirs.get(key, ABSENT)
    }


def is_extension(config: dict[str, Any], frozen: dict[str, Any]) -> bool:
    """Whether `config` asks for more epochs of the frozen run's last step, and says so."""
    last = list(config["stage"]["steps"])[-1]
    longer = {"minutes", *(f"stage.steps.{last}.{key}" for key in EXTENSIBLE)}
    differing = identity_differences(config, frozen)
    return config["resume"] == "extend" and bool(differing) and set(differing) <= longer


def identity_digest(frozen: dict[str, Any]) -> str:
    """16 hex digits for what makes a run this one, however long it becomes."""
    fixed = {key: value for key, value in _identity(frozen).items() if key.rpartition(".")[2] not in EXTENSIBLE}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]


def identity(record: dict[str, Any]) -> str:
    """Eight hexadecimal digits that no other run has, however it is called and wherever it lies."""
    if re.fullmatch("[0-9a-f]{8}", str(record.get("id"))):
        return str(record["id"])
    began = [start.get("time") for start in record.get("starts", [])[:1]]
    known = [record.get(key) for key in ("name", "seed", "commit")]
    return hashlib.sha256(json.dumps([*known, *began]).encode()).hexdigest()[:8]


def starts(record: dict[str, Any]) -> list[str]:
    """Return an id for each start of a run, unlike all others of this run and of its copies on other machines."""
    return [str(start.get("id") or f"{start['time']} {start['machine']}") for start in record.get("starts", [])]


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    values = flatten({name: config[name] for name in IDENTITY})
    if config.get("minutes") is not None:
        values.append(("minutes", config["minutes"]))
    return {key: value for key, value in values if not key.endswith(ASIDE)}


def below(key: str, names: Iterable[str]) -> bool:
    """Whether a dotted key is one of `names`, or below one."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def flatten(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Dotted keys at and below `path`, each with its value; a list is a value."""
    if isinstance(value, dict) and value:
        return [pair for name, child in value.items() for pair in flatten(child, f"{path}.{name}" if path else name)]
    return [(path, value)]
