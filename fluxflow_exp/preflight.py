"""Everything that can be wrong with a configuration, found at once, before any data is read."""

import dataclasses
import inspect
import json
import os
import typing
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from fluxflow_exp import datasets, pictures, steps
from fluxflow_exp.config import locate
from fluxflow_exp.evaluation import names as evaluated
from fluxflow_exp.hardware import hardware_problems, parallel_problems
from fluxflow_exp.overrides import did_you_mean, suggest_key
from fluxflow_exp.schema import Hardware, MicroBatch, RunConfig, Slurm, Stage, Step

LIVE = {"setup", "optimizer", "updates", "params", "assets"}  # arguments given as live objects
LPIPS_NETS = ("alex", "vgg", "squeeze")
CHOICES = {
    "resume": ("auto", "fresh", "extend"),
    "cache.mode": ("auto", "on", "off"),
    "publish.text_encoder": ("embed", "reference"),
    "tracking.mode": ("auto", "online", "offline", "off"),
}


def problems(values: dict[str, Any], *, here: bool = True) -> list[str]:
    """One line for each thing wrong with the resolved configuration `values`; empty when it can run.

    `here` is whether it will run on this machine: if not, the machine's own devices are not looked at.
    """
    found = _frame(values, RunConfig, "") + _missing(values, "")
    for key, allowed in CHOICES.items():
        section, _, leaf = key.rpartition(".")
        if section and section not in values:  # frozen by a version that had no such section: it has its defaults
            continue
        value = (values.get(section) or {}).get(leaf) if section else values.get(leaf)
        if value not in allowed:
            found.append(f"{key} is one of {', '.join(allowed)}, not {value!r}")
    minutes = (values.get("checkpoint") or {}).get("every_minutes")
    if not (minutes in (None, "auto") or (isinstance(minutes, int | float) and minutes > 0)):
        found.append(f"checkpoint.every_minutes is a number of minutes, auto or null, not {minutes!r}")
    looked_at = (values.get("health") or {}).get("images")
    if looked_at is not None and looked_at < 1:
        found.append(f"health.images is at least 1, or null for no health rows, not {looked_at!r}")
    found += target_problems(values, "")
    found += (
        datasets.path_problems(values.get("data"), "data") + _output(values) + _samples(values.get("samples") or {})
    )
    found += _evaluation(values.get("evaluation") or {})
    hardware = values.get("hardware") or {}
    if not any(line.startswith("hardware") for line in found):
        typed = _hardware(hardware)
        found += parallel_problems(typed) + (hardware_problems(typed) if here else [])
    if not found:
        found += steps.problems(values)
    return found


def _hardware(values: dict[str, Any]) -> Hardware:
    return Hardware(**{**values, "micro_batch": MicroBatch(**values["micro_batch"]), "slurm": Slurm(**values["slurm"])})


def _frame(value: Any, kind: type, path: str) -> list[str]:
    """Keys of `value` that the dataclass `kind` does not have, at any depth of the frame."""
    if not isinstance(value, dict):
        return []
    hints = typing.get_type_hints(kind)
    found = [f"{path}{key}: there is no such key{suggest_key(key, list(hints))}" for key in value if key not in hints]
    for key, hint in hints.items():
        where = f"{path}{key}."
        if dataclasses.is_dataclass(_bare(hint)):
            found += _frame(value.get(key), _bare(hint), where)
        elif kind is Stage and key == "steps":
            for name, step in (value.get(key) or {}).items():
                found += _frame(step, Step, f"{where}{name}.")
    return found


def _bare(hint: Any) -> Any:
    """X of `X | None`."""
    arguments = [a for a in typing.get_args(hint) if a is not type(None)]
    return arguments[0] if len(arguments) == 1 and not isinstance(hint, type) else hint


def _missing(value: Any, path: str) -> list[str]:
    if isinstance(value, dict):
        return [line for key, child in value.items() for line in _missing(child, f"{path}{key}.")]
    if value == "???":
        key = path.rstrip(".")
        return [f"{key} is not set: give {key}=…"]
    return []


def target_problems(value: Any, path: str) -> list[str]:
    """Compare every `_target_` node's keys and values with the signature of what it names."""
    if isinstance(value, list):
        return [line for i, child in enumerate(value) for line in target_problems(child, f"{path}{i}.")]
    if not isinstance(value, dict):
        return []
    found = [line for key, child in value.items() for line in target_problems(child, f"{path}{key}.")]
    if "_target_" in value:
        found += _target(value, path.rstrip("."))
    return found


def _target(node: dict[str, Any], path: str) -> list[str]:
    try:
        target = locate(node["_target_"])
    except (ImportError, AttributeError) as error:
        return [f"{path}._target_: cannot find {node['_target_']!r} ({error})"]
    parameters = dict(inspect.signature(target).parameters)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {k: v for k, v in node.items() if k not in ("_target_", "_partial_")}
    allowed = [name for name in parameters if name not in LIVE]
    found = [
        f"{path}.{key}: {node['_target_']} takes no {key!r}{did_you_mean(key, allowed)}"
        for key in given
        if key not in parameters and not open_ended
    ]
    needed = [
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    found += [
        f"{path}.{name} is not set: {node['_target_']} needs it"
        for name in needed
        if name not in given and name not in LIVE
    ]
    return found + _types(target, given, path)


def _types(target: Any, given: dict[str, Any], path: str) -> list[str]:
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    found = []
    for key, value in given.items():
        if key not in hints or value == "???" or "_target_" in json.dumps(value, default=str):
            continue
        try:
            adapter = TypeAdapter(hints[key], config=ConfigDict(arbitrary_types_allowed=True))
            adapter.validate_json(json.dumps(value), strict=True)
        except PydanticSchemaGenerationError:
            continue  # a type of torch's own, which pydantic cannot judge
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            found.append(f"{path}.{key}={value!r}: {reason[0].lower()}{reason[1:]}")
    return found


def _samples(samples: dict[str, Any]) -> list[str]:
    """Test images that do not exist, and sizes that are none."""
    found = [
        f"samples.test_image_address: there is no file {name}"
        for name in samples.get("test_image_address") or []
        if not Path(name).expanduser().is_file()
    ]
    for size in samples.get("sample_sizes") or []:
        try:
            pictures.size_of(size)
        except ValueError as error:
            found.append(f"samples.sample_sizes: {error}")
    return found


def _evaluation(wanted: dict[str, Any]) -> list[str]:
    """Metrics that there are not, that are not installed, or that have too few images."""
    names = list(wanted.get("metrics") or [])
    unknown = evaluated.name_problems(names, known=evaluated.ON_SCHEDULE, where="evaluation.metrics")
    if unknown:
        return unknown
    features = wanted.get("features", evaluated.EFFICIENTNET)
    absent = evaluated.lacking(names, features=features)
    found = [f"evaluation.metrics: {absent}"] if absent else []
    file = wanted.get("lpips_weights_file")
    if file and not Path(file).expanduser().is_file():
        found.append(f"evaluation.lpips_weights_file: there is no file {file}")
    net = wanted.get("lpips_net", "alex")
    if net not in LPIPS_NETS:
        found.append(f"evaluation.lpips_net is one of {', '.join(LPIPS_NETS)}, not {net!r}")
    for key, needing in (("images", ("rfd", "fd", "kid")), ("prompts", ("fd", "kid"))):
        asked = [name for name in names if name in needing]
        if asked and wanted.get(key, 2) < 2:
            found.append(f"evaluation.{key} must be at least 2 for {' and '.join(asked)}, not {wanted[key]}")
    return found


def _output(values: dict[str, Any]) -> list[str]:
    found = []
    wanted = {"output_root": values.get("output_root")}
    wanted["checkpoint.mirror"] = (values.get("checkpoint") or {}).get("mirror")
    wanted["cache.path"] = (values.get("cache") or {}).get("path")
    for key, value in wanted.items():
        if value is None:
            continue
        path = Path(value).expanduser().absolute()
        nearest = next(p for p in (path, *path.parents) if p.exists())
        if not nearest.is_dir():
            found.append(f"{key}={value}: {nearest} is a file, so nothing can be written below it")
        elif not os.access(nearest, os.W_OK):
            found.append(f"{key}={value}: no permission to write to {nearest}")
    return found
