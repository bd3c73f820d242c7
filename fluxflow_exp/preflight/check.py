"""Everything that can be wrong with a configuration, found at once, before any data is read."""

import os
from pathlib import Path
from typing import Any

from fluxflow_exp import pictures
from fluxflow_exp.config import published
from fluxflow_exp.config.schema import OF_BEST_POINT, Hardware, MicroBatch, Slurm
from fluxflow_exp.data.captions import surrogate_in
from fluxflow_exp.data.decoding import reason
from fluxflow_exp.data.token_formats import FORMATS
from fluxflow_exp.data.transforms import open_rgb
from fluxflow_exp.errors import UserError
from fluxflow_exp.evaluation import measures
from fluxflow_exp.preflight import frame, parts, steps, targets
from fluxflow_exp.preflight.data import path_problems
from fluxflow_exp.preflight.hardware import hardware_problems, parallel_problems
from fluxflow_exp.preflight.idle import Idle
from fluxflow_exp.reference import curves
from fluxflow_exp.samplers import SAMPLERS, interval_problem

LONGEST_NAME = 200  # bytes of a file name, with room for what is put behind it
LPIPS_NETS = ("alex", "vgg", "squeeze")
SECTIONS = ("model", "stage", "hardware", "tracking", "checkpoint", "samples", "evaluation", "publish", "cache")
CHOICES = {
    "resume": ("auto", "fresh", "extend", "incomplete"),
    "cache.mode": ("auto", "on", "off"),
    "cache.text_dtype": ("auto", *FORMATS),
    "cache.recent_on": ("memory", "disk"),
    "publish.weights": ("last", *OF_BEST_POINT),
    "publish.text_encoder": ("embed", "reference"),
    "tracking.mode": ("auto", "online", "offline", "off"),
    "samples.sampler": tuple(SAMPLERS),
    "evaluation.sampler": tuple(SAMPLERS),
}


def problems(values: dict[str, Any], *, here: bool = True, begun: bool = False) -> list[str]:
    """One line for each thing wrong with the resolved configuration `values`; empty when it can run.

    `here` is whether it will run on this machine: if not, the machine's own devices are not looked at. `begun`: a run
    was started with them, and what acts on nothing is no problem of it.
    """
    found = frame.problems(values) + _unwritable(values, "")
    if found and not all(isinstance(values.get(key, {}), dict) for key in SECTIONS):
        return found  # nothing more can be said of it
    for key, allowed in CHOICES.items():
        section, _, leaf = key.rpartition(".")
        holder = (values.get(section) or {}) if section else values
        if section and leaf not in holder:  # frozen by a version that had no such key: it has its default
            continue
        value = holder.get(leaf)
        if value not in allowed:
            found.append(f"{key} is one of {', '.join(allowed)}, not {value!r}")
    minutes = (values.get("checkpoint") or {}).get("every_minutes")
    if minutes not in (None, "auto") and (isinstance(minutes, bool) or not isinstance(minutes, int | float)):
        found.append(f"checkpoint.every_minutes is a number of minutes, auto or null, not {minutes!r}")
    every = values.get("log_every")
    if every != "auto" and (isinstance(every, bool) or not isinstance(every, int)):
        found.append(f"log_every is a number of updates or auto, not {every!r}")
    for section in ("samples", "evaluation"):
        every = (values.get(section) or {}).get("every_epochs")
        if every not in (None, "auto") and (isinstance(every, bool) or not isinstance(every, int)):
            found.append(f"{section}.every_epochs is a number of epochs, auto or null, not {every!r}")
    found = _once(found + targets.problems(values, ""))
    found += path_problems(values.get("data"), "data") + _output(values) + _samples(values.get("samples") or {})
    found += _evaluation(values.get("evaluation") or {}) + _copies(values)
    for section in ("samples", "evaluation"):
        interval = (values.get(section) or {}).get("guidance_interval")
        wrong = interval_problem(interval) if interval is not None else None
        if wrong and not any(line.startswith(f"{section}.guidance_interval") for line in found):
            found.append(f"{section}.guidance_interval {wrong}")
    hardware = values.get("hardware") or {}
    if not any(line.startswith("hardware") for line in found):
        typed = _hardware(hardware)
        found += parallel_problems(typed) + (hardware_problems(typed) if here else [])
    for check in (steps.problems, parts.problems):
        found = found or [line for line in check(values) if not (begun and isinstance(line, Idle))]
    return found


def _hardware(values: dict[str, Any]) -> Hardware:
    return Hardware(**{**values, "micro_batch": MicroBatch(**values["micro_batch"]), "slurm": Slurm(**values["slurm"])})


def _once(lines: list[str]) -> list[str]:
    """`lines` without those that repeat another one of a value that they took over from there."""

    def taken_over(line: str) -> bool:
        key, _, text = line.partition(" ")
        section, _, leaf = key.rpartition(".")
        above = [".".join(section.split(".")[:depth]) for depth in range(1, section.count(".") + 1)]
        above += [group for group in ("optimizer", "scheduler") if f".{group}s." in section]
        return any(f"{each}.{leaf} {text}" in known for each in above)

    known = set(lines)
    return [line for line in lines if not taken_over(line)]


def _unwritable(value: Any, path: str) -> list[str]:
    """Texts that are not of whole characters, so that neither config.yaml nor a text encoder can take them."""
    if isinstance(value, dict):
        return [line for key, child in value.items() for line in _unwritable(child, f"{path}{key}.")]
    if isinstance(value, list):
        return [line for i, child in enumerate(value) for line in _unwritable(child, f"{path}{i}.")]
    broken = surrogate_in(value) if isinstance(value, str) else None
    return [f"{path.rstrip('.')}={value!r} holds {broken}"] if broken else []


def _samples(samples: dict[str, Any]) -> list[str]:
    """Test images that cannot be read, and sizes that are none."""
    found = []
    for name in samples.get("test_image_address") or []:
        try:
            open_rgb(Path(os.path.expanduser(name)))
        except OSError as error:
            found.append(f"samples.test_image_address: {name}: {reason(error)}")
    for size in samples.get("sample_sizes") or []:
        try:
            pictures.size_of(size)
        except ValueError as error:
            found.append(f"samples.sample_sizes: {error}")
    return found


def _evaluation(wanted: dict[str, Any]) -> list[str]:
    """Metrics that there are not, that are not installed, or that have too few images."""
    names = list(wanted.get("metrics") or [])
    unknown = measures.name_problems(names, known=measures.ON_SCHEDULE, where="evaluation.metrics")
    if unknown:
        return unknown
    features = wanted.get("features", measures.EFFICIENTNET)
    absent = measures.lacking(names, features=features)
    found = [f"evaluation.metrics: {absent}"] if absent else []
    file = wanted.get("lpips_weights_file")
    if file and not Path(file).expanduser().is_file():
        found.append(f"evaluation.lpips_weights_file: there is no file {file}")
    net = wanted.get("lpips_net", "alex")
    if net not in LPIPS_NETS:
        found.append(f"evaluation.lpips_net is one of {', '.join(LPIPS_NETS)}, not {net!r}")
    if not isinstance(wanted.get("reference", "shipped"), str):
        found.append(f"evaluation.reference is shipped, off or a file, not {wanted['reference']!r}")
    else:
        found += _reference(wanted.get("reference", "shipped"))
    for name in names:
        measure = measures.MEASURES[name]
        for key in ("images", "prompts") if measure.of == "samples" else ("images",):
            if measure.fewest > 1 and wanted.get(key, measure.fewest) < measure.fewest:
                found.append(f"evaluation.{key} must be at least {measure.fewest} for {name}, not {wanted[key]}")
    return found


def _reference(asked: str) -> list[str]:
    """A file of one's own reference runs that cannot be read."""
    try:
        curves.asked(asked)
    except UserError as error:
        return [f"evaluation.reference: {error}"]
    return []


def _copies(values: dict[str, Any]) -> list[str]:
    """Streamed shards, among which no copies can be looked for."""
    streamed = [word for key, word in published.addresses(values) if key.endswith(".urls")]
    if "copies" not in ((values.get("evaluation") or {}).get("metrics") or []) or not streamed:
        return []
    return [f"evaluation.metrics: copies looks through training images, and {streamed[0]} is streamed: leave it out"]


def _output(values: dict[str, Any]) -> list[str]:
    found = []
    parts = str(values.get("name") or "").split("/")
    if not all(parts) or {".", ".."} & {*parts} or any(len(part.encode()) > LONGEST_NAME for part in parts):
        shown = f"name={values.get('name')!r}"
        found.append(f"{shown} cannot be a folder below output_root: give a word of at most {LONGEST_NAME} bytes")
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
    return found + _mirror(values, wanted["checkpoint.mirror"])


def _mirror(values: dict[str, Any], asked: Any) -> list[str]:
    if not asked:
        return []
    run = Path(values["output_root"]).expanduser() / str(values["name"])
    if not Path(asked).expanduser().resolve().is_relative_to(run.resolve()):
        return []
    return [f"checkpoint.mirror={asked} lies in the run folder {run}: name a folder on another disk"]
