"""A run folder's config.yaml: plain values, whoever has written them, and what may be built of them.

Whatever a stranger's run holds can be shown. Before anything is built of it, `check` refuses what would run, open, send
or build something that is neither this package's own nor named by the user.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from fluxflow_exp.config import published
from fluxflow_exp.config.compose import PARTS, typed
from fluxflow_exp.config.published import ENCODER, PARTIAL, PERCEPTUAL, TARGET
from fluxflow_exp.errors import UserError
from fluxflow_exp.files import DamagedError, naming
from fluxflow_exp.models.facts import STEP_NAME
from fluxflow_exp.preflight import targets

DEEPEST, MOST = 32, 100_000  # levels, and values: YAML's anchors can make any number of a few lines
WIDEST = 2**63  # of an integer
# libyaml's is the same and ten times as fast: a comparison reads dozens of configurations.
SAFE_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


def read_config(path: Path) -> dict[str, Any]:
    """The values of a run's config.yaml. DamagedError: it is not there, not whole, or not as a run writes it."""
    try:
        with naming(path):
            config: Any = yaml.load(path.read_text(encoding="utf-8"), SAFE_LOADER)
    except Exception as error:  # PyYAML has many for what it cannot make a value of
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        raise DamagedError(f"{path} cannot be read: {published.shown(said)}") from error
    if not isinstance(config, dict) or not config:
        raise DamagedError(f"{path} holds no configuration")
    wrong = _oddity(config)
    if wrong:
        raise DamagedError(f"{path} is not as a run writes it: {published.shown(wrong)}")
    return config


def to_build(path: Path, *, measured: bool = True) -> dict[str, Any]:
    """The values of a run's config.yaml, checked to be built and to fetch nothing. UserError: as `check` says.

    `measured`: with the metrics of held-out images, and what they need.
    """
    values = framed(read_config(path), path)
    if not measured:
        values = {**values, "evaluation": {**values["evaluation"], "metrics": []}}
    values = offline(values)
    check(values, path)
    return values


def framed(values: dict[str, Any], source: object) -> dict[str, Any]:
    """`values`, which stand in `source`, with the defaults of what an older version did not have.

    UserError: their sections and keys are not those of a run.
    """
    try:
        return asdict(typed(values))
    except UserError as error:
        raise UserError(*(f"{source}: {published.shown(str(line))}" for line in error.args)) from error


def check(values: dict[str, Any], source: object, *, way: str = ". If you trust it, add --trust {word}") -> None:
    """Whether the sections of a configuration in `values`, which stand in `source`, may be built.

    UserError: every class, address and environment variable that is not this package's own or the user's, and every
    node at a place for another one. `way`: how the user allows a word.
    """
    kinds = dict(_places(values))
    there = dict(published.nodes(values))
    found = [f"{path} is not a {kind} (it has no {TARGET})" for path, kind in kinds.items() if path not in there]
    found += [
        f"stage.steps: {name!r} is not the name of a step: letters, digits, - and _"
        for name in values.get("stage", {}).get("steps", {})
        if not re.match(STEP_NAME, name)
    ]
    own = {path for path, node in there.items() if published.is_own(str(node[TARGET]))}
    own |= {path for path, node in there.items() if not published.is_known(node[TARGET])}  # refused, each by its name
    for path, node in there.items():
        outer = list(accumulate(path.split("."), "{}.{}".format))[:-1]
        within = not own.isdisjoint(outer)  # an own class builds what it likes of what may be built
        found += _problems(path, node, kinds.get(path), way, within=within)
    for path, word in published.addresses(values):
        if not published.is_own(word):
            found.append(f"{path}: refusing to {_would(path, word)}{published.advice(word, way)}")
    if found:
        raise UserError(*(f"{source}: {published.shown(line)}" for line in found))


def offline(values: dict[str, Any]) -> dict[str, Any]:
    """`values` whose pretrained text encoder and LPIPS are looked for on this machine alone: a file is no reason to
    fetch them."""
    node = values["model"]["text_encoder"]
    if isinstance(node, dict) and node.get(TARGET) == ENCODER:
        values = {**values, "model": {**values["model"], "text_encoder": {**node, "local": True}}}
    measured = values["evaluation"]
    if "lpips" in measured["metrics"] and measured["lpips_weights_file"] is None:
        values = {**values, "evaluation": {**measured, "lpips_weights_file": _cached(measured["lpips_net"])}}
    local: dict[str, Any] = _local(values)
    return local


def _local(value: Any) -> Any:
    """The same of losses anywhere in `value`."""
    if isinstance(value, list):
        return [_local(child) for child in value]
    if not isinstance(value, dict):
        return value
    found = {key: _local(child) for key, child in value.items()}
    fetches = found.get(TARGET) == PERCEPTUAL and found.get("weights_file") is None and found.get("pretrained", True)
    return {**found, "weights_file": _cached(found.get("net", "vgg"))} if fetches else found


def _cached(net: Any) -> str | None:
    """The file where LPIPS's network is, or would be downloaded to; None: there is no such network."""
    from fluxflow_exp.losses.perceptual import TRUNKS, cached_file

    return str(cached_file(net)) if net in list(TRUNKS) else None


def _oddity(config: dict[Any, Any]) -> str | None:
    """The first thing in `config` that no run writes."""
    waiting: list[tuple[str, Any, int]] = [("", config, 0)]
    for _ in range(MOST):
        if not waiting:
            return None
        path, value, depth = waiting.pop()
        where = path or "it"
        if depth > DEEPEST:
            return f"{path:.60}… is too deep"
        if isinstance(value, dict):
            for key, child in value.items():
                if not isinstance(key, str) or not key or _unprintable(key) or any(map(_is_control, key)):
                    return f"{where} has the key {key!r:.60}"
                waiting.append((f"{path}.{key}" if path else key, child, depth + 1))
        elif isinstance(value, list):
            waiting += [(f"{path}.{index}", child, depth + 1) for index, child in enumerate(value)]
        elif isinstance(value, str):
            if _unprintable(value):
                return f"{where} is {value!r:.60}"
            if "${" in value:
                return f"{where} is an interpolation ({value:.60})"
        elif not (value is None or isinstance(value, bool | int | float)):
            return f"{where} is a {type(value).__name__}"
        elif isinstance(value, int) and abs(value) >= WIDEST:
            return f"{where} is a number of more than 64 bits"
    return f"it has more than {MOST} values"


def _unprintable(text: str) -> bool:
    return "\0" in text or any("\ud800" <= character <= "\udfff" for character in text)


def _is_control(character: str) -> bool:
    return character < " " or "\x7f" <= character <= "\x9f"


def _places(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Dotted key of each node that a configuration has, and what it builds."""
    if "model" in values:
        yield from ((f"model.{part}", "part") for part in PARTS)
    yield from ((group, group) for group in ("optimizer", "scheduler") if group in values)
    yield from _data(values.get("data"), "data", named=True)
    for name, step in values.get("stage", {}).get("steps", {}).items():
        path = f"stage.steps.{name}"
        yield from _data(step.get("data"), f"{path}.data")
        if "trainer" in step:
            yield f"{path}.trainer", "trainer"
            trainer = step["trainer"] if isinstance(step["trainer"], dict) else {}
            yield from ((f"{path}.trainer.{key}", "loss") for key, node in trainer.items() if _is_node(node))
        for group, kind in (("optimizers", "optimizer"), ("schedulers", "scheduler")):
            yield from ((f"{path}.{group}.{player}", kind) for player in step.get(group, {}))


def _data(data: Any, path: str, *, named: bool = False) -> Iterator[tuple[str, str]]:
    if named and isinstance(data, dict) and TARGET not in data and isinstance(data.get("datasets"), dict):
        yield from ((f"{path}.datasets.{name}", "data set") for name in data["datasets"])
    elif (named and data is not None) or _is_node(data):
        yield path, "data set"


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and TARGET in value


def _problems(path: str, node: dict[str, Any], kind: str | None, way: str, *, within: bool) -> list[str]:
    """`within`: it is an argument of an own class, or of one in it."""
    name = node[TARGET]
    if kind is None and not within:
        return [f"{path}: nothing is built here, and {name!r} stands there"]
    if not published.is_known(name):
        refusal = f"{path}: refusing to build {name!r}, which is no class of this package"
        return [refusal + (published.advice(name, way) if isinstance(name, str) else "")]
    if within:
        return targets.of_node(node, path)
    if not published.is_known(name, kind):
        return [f"{path}: {name} is no {kind}"]
    partial = kind in ("optimizer", "scheduler")
    if node.get(PARTIAL, False) is not partial:
        why = "true: it gets its parameters later" if partial else f"false: a {kind} is built whole"
        return [f"{path}.{PARTIAL} must be {why}"]
    return targets.of_node(node, path)


def _would(path: str, word: str) -> str:
    if path == "evaluation.features":
        return f"fetch the network {word!r}"
    if path.endswith(".name"):
        return f"fetch the text encoder {word!r}"
    if path.endswith(".token_env"):
        return f"send the value of the environment variable {word} away"
    return f"run the command {word.removeprefix('pipe:')!r}" if word.startswith("pipe:") else f"open {word}"
