"""Everything that can be wrong with a configuration, found at once, before any data is read."""

import dataclasses
import importlib
import inspect
import json
import os
import typing
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from fluxflow_exp import datasets, pictures, weights
from fluxflow_exp.config import PARTS
from fluxflow_exp.hardware import hardware_problems, parallel_problems
from fluxflow_exp.overrides import did_you_mean, suggest_key
from fluxflow_exp.schema import Hardware, MicroBatch, RunConfig, Slurm, Stage, Step
from fluxflow_exp.trainers import transition

LIVE = {"setup", "optimizer", "updates", "params", "assets"}  # arguments given as live objects
CHOICES = {"resume": ("auto", "fresh", "extend"), "publish.text_encoder": ("embed", "reference")}


def problems(values: dict[str, Any], *, here: bool = True) -> list[str]:
    """One line for each thing wrong with the resolved configuration `values`; empty when it can run.

    `here` is whether it will run on this machine: if not, the machine's own devices are not looked at.
    """
    found = _frame(values, RunConfig, "") + _missing(values, "")
    for key, allowed in CHOICES.items():
        section, _, leaf = key.rpartition(".")
        value = (values.get(section) or {}).get(leaf) if section else values.get(leaf)
        if value not in allowed:
            found.append(f"{key} is one of {', '.join(allowed)}, not {value!r}")
    found += _targets(values, "")
    found += (
        datasets.path_problems(values.get("data"), "data") + _output(values) + _samples(values.get("samples") or {})
    )
    hardware = values.get("hardware") or {}
    if not any(line.startswith("hardware") for line in found):
        typed = _hardware(hardware)
        found += parallel_problems(typed) + (hardware_problems(typed) if here else [])
    if not found:
        found += _steps(values)
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


def _targets(value: Any, path: str) -> list[str]:
    """Compare every `_target_` node's keys and values with the signature of what it names."""
    if isinstance(value, list):
        return [line for i, child in enumerate(value) for line in _targets(child, f"{path}{i}.")]
    if not isinstance(value, dict):
        return []
    found = [line for key, child in value.items() for line in _targets(child, f"{path}{key}.")]
    if "_target_" in value:
        found += _target(value, path.rstrip("."))
    return found


def _target(node: dict[str, Any], path: str) -> list[str]:
    try:
        target = _locate(node["_target_"])
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


def _locate(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


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


def _output(values: dict[str, Any]) -> list[str]:
    found = []
    wanted = {"output_root": values.get("output_root")}
    wanted["checkpoint.mirror"] = (values.get("checkpoint") or {}).get("mirror")
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


def _steps(values: dict[str, Any]) -> list[str]:
    found: list[str] = []
    steps = values["stage"]["steps"]
    if not steps:
        found.append("the stage has no steps")
    made: set[str] = set()
    for name, step in steps.items():
        where = f"stage.steps.{name}"
        found += datasets.problems(step["data"], values["data"], where)
        found += _numbers(step, where, values["hardware"])
        found += _parts(step, where, made, values)
        trainer = _locate(step["trainer"]["_target_"])
        for player in step["optimizers"]:
            made |= set(trainer.PLAYERS.get(player, ())) - set(step["freeze"])
    conditioning = [step["trainer"].get("spade", "never") for step in steps.values() if "kl" in step["trainer"]]
    if values["stage"]["spade"] and conditioning and set(conditioning) == {"never"}:
        found.append("stage.spade builds SPADE layers that no step trains: set trainer.spade=always in one of them")
    return found


def _numbers(step: dict[str, Any], where: str, hardware: dict[str, Any]) -> list[str]:
    found = [
        f"{where}.{key} must be at least 1, not {step[key]}"
        for key in ("n_epochs", "batch_size", "max_updates")
        if step[key] is not None and step[key] < 1
    ]
    kind = _locate(step["trainer"]["_target_"]).MICRO_BATCH
    micro, ranks = hardware["micro_batch"][kind], hardware["devices"] * hardware["slurm"]["nodes"]
    each, rest = divmod(step["batch_size"], ranks)
    if rest:
        found.append(
            f"{where}.batch_size={step['batch_size']} does not divide by {ranks} ranks (hardware.devices x nodes)"
        )
    elif micro is not None and (micro < 1 or (each % micro and micro < each)):
        share = f", {each} a rank," if ranks > 1 else ""
        found.append(
            f"{where}.batch_size={step['batch_size']}{share} is not a multiple of hardware.micro_batch.{kind}={micro}"
        )
    known = _locate(step["trainer"]["_target_"]).METRICS
    lines = transition.problems(step["transition_on"], known, step["trainer"])
    found += [f"{where}.transition_on: {line}" for line in lines]
    if not 0 <= step["cfg_dropout_prob"] <= 1:
        found.append(f"{where}.cfg_dropout_prob must be in [0, 1], not {step['cfg_dropout_prob']}")
    return found


def _parts(step: dict[str, Any], where: str, made: set[str], values: dict[str, Any]) -> list[str]:
    """Freeze lists, players, and where the parts that a step only uses come from."""
    trainer = _locate(step["trainer"]["_target_"])
    found = [
        f"{where}.{key}: there is no part {part!r}{did_you_mean(part, PARTS)}. Parts: {', '.join(PARTS)}"
        for key in ("freeze", "unfreeze")
        for part in step[key]
        if part not in PARTS
    ]
    found += [f"{where}: {part} is in freeze and in unfreeze" for part in step["freeze"] if part in step["unfreeze"]]
    if "text_encoder" in step["unfreeze"] and values["publish"]["text_encoder"] == "reference":
        found.append(f"{where}.unfreeze trains the text encoder, which publish.text_encoder=reference would not keep")
    adversarial = step["trainer"].get("adversarial") or {}
    found += [
        f"{where}.trainer.{loss} acts on a discriminator, and trainer.adversarial is off"
        for loss in ("feature_matching", "lecam")
        if step["trainer"].get(loss) and not adversarial
    ]
    compares = any(step["trainer"].get(key) for key in ("reconstruction", "frequency"))
    if adversarial and adversarial.get("adaptive", True) and not compares:
        found.append(f"{where}.trainer.adversarial.adaptive compares with a reconstruction loss: set it to false")
    if step["trainer"].get("spade", "never") != "never" and not values["model"]["spade"]:
        found.append(f"{where}.trainer.spade needs SPADE layers: set stage.spade=true (or model.spade=true)")
    for group in ("optimizers", "schedulers"):
        found += [
            f"{where}.{group}: this step has no player {player!r}{did_you_mean(player, trainer.PLAYERS)}"
            for player in step[group]
            if player not in trainer.PLAYERS
        ]
    found += [
        f"{where}.schedulers.{player} is missing: the player has an optimizer"
        for player in step["optimizers"]
        if player not in step["schedulers"]
    ]
    if step["trainer"].get("adversarial") and "discriminator" not in step["optimizers"]:
        found.append(f"{where}.optimizers.discriminator is missing: the adversarial loss needs it")
    first = next(iter(trainer.PLAYERS))
    if set(trainer.PLAYERS[first]) <= set(step["freeze"]) or first not in step["optimizers"]:
        found.append(f"{where} trains nothing of {' and '.join(trainer.PLAYERS[first])}: see its freeze and optimizers")
    given = _given(step["init_from"], where, values["model"], found)
    lacking = [part for part in trainer.USES if part not in made | given]
    if lacking:
        found.append(
            f"{where} needs a trained {' and '.join(lacking)}: put an autoencoder step before it "
            f"(stage=full), or give {where}.init_from=RUN_FOLDER_OR_FILE"
        )
    return found


def _given(source: str | None, where: str, model: dict[str, Any], found: list[str]) -> set[str]:
    """The parts that `init_from` holds; their shapes are compared with the model's."""
    if source is None:
        return set()
    try:
        holders = weights.find_parts(Path(source).expanduser())
    except ValueError as error:
        found.append(f"{where}.init_from: {error}")
        return set()
    for part, holder in holders.items():
        wanted = weights.expected_shapes(model[part])
        have = weights.shapes(holder, part)
        differing = sorted(k for k in {*wanted, *have} if wanted.get(k) != have.get(k))
        if wanted and differing:
            key = differing[0]
            found.append(
                f"{where}.init_from={source}: {part} does not fit model={model['name']}: {part}.{key} is "
                f"{have.get(key, 'absent')} there and {wanted.get(key, 'absent')} here "
                f"({len(differing)} tensors differ)"
            )
    return set(holders)
