"""The command line checked before Hydra reads it: every bad override is reported at once, in the user's words.

Hydra stops at the first one. Each override is composed here alone with the group choices, so that one mistake does
not hide another.
"""

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fluxflow_exp.config.choices import choices, is_group, place_of_loss
from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.composition import composed_of
from fluxflow_exp.config.left_out import way_on
from fluxflow_exp.config.override_words import (
    as_text,
    command,
    is_field,
    keys,
    quoting,
    sweep_without_m,
    swept_launcher,
    two_lengths,
    why,
)
from fluxflow_exp.config.schema import RunConfig
from fluxflow_exp.errors import UserError, did_you_mean, suggest_key

Made = TypeVar("Made")
Failure = (HydraException, OmegaConfBaseException)
FOLLOWS = "as_run"  # the choice of a player whose optimizer or scheduler is the run's


def compose_config(overrides: list[str], *, config_dir: str | None = None, hydra: bool = False) -> DictConfig:
    """The configuration that `overrides` select, with Hydra's own if `hydra`.

    `config_dir` is searched beside the shipped groups. HydraException, OmegaConfBaseException: there is none.
    """
    return composed_of(as_text(overrides), config_dir=config_dir, hydra=hydra)


def override_problems(overrides: list[str], *, config_dir: str | None = None, multirun: bool = False) -> list[str]:
    """One line for every override that cannot be applied; empty when all can. `multirun`: sweeps are in place."""
    parsed, problems = _looked_at(overrides, config_dir, multirun=multirun)
    if not problems and _composes([_one_value(each) for each in parsed], config_dir):
        # Looking at them one by one takes a composition each.
        return _other_choices(parsed, config_dir) + _other_values(parsed, config_dir)
    groups, values = _split([each for each in parsed if not _key_problem(each, config_dir)], config_dir)
    good: list[str] = []
    for override in groups:
        line = _one_value(override)
        problem = _try([*good, line], override, good, config_dir)
        if problem:
            problems.append(problem)
        else:
            good.append(line)
    for override in values:
        if override.key_or_group.startswith("hydra"):
            continue
        problems += filter(None, [_try([*good, _one_value(override)], override, good, config_dir)])
    return problems


def _other_choices(parsed: list[Override], config_dir: str | None) -> list[str]:
    """Find what is wrong with the second choice of a swept group and with those after it."""
    found = []
    for override in parsed:
        swept = override.is_sweep_override() and choices(override.key_or_group, config_dir)
        others = [_one_value(each) for each in parsed if each is not override]
        for value in list(override.sweep_string_iterator())[1:] if swept else []:
            lines = [f"{(override.input_line or '').partition('=')[0]}={value}", *others]
            found += override_problems(lines, config_dir=config_dir)
    return list(dict.fromkeys(found))


def _other_values(parsed: list[Override], config_dir: str | None) -> list[str]:
    """Find what is wrong with the second value of a swept key and with those after it."""
    config = compose_config([_one_value(each) for each in parsed], config_dir=config_dir)
    found = []
    for override in parsed:
        key = override.key_or_group
        if not override.is_sweep_override() or key.startswith("hydra") or choices(key, config_dir):
            continue
        for text in list(override.sweep_string_iterator())[1:]:
            try:
                OmegaConf.update(config, key, OverridesParser.create().parse_override(f"{key}={text}").value())
            except OmegaConfBaseException as error:
                found.append(f"{key}={text}: {why(error)}")
    return found


def values_of(overrides: list[str], *, config_dir: str | None = None) -> dict[str, Any]:
    """The resolved configuration that `overrides` select. UserError: all that is wrong with them."""
    return composed(overrides, resolve, config_dir=config_dir)


def composed(overrides: list[str], made: Callable[[DictConfig], Made], *, config_dir: str | None = None) -> Made:
    """What is `made` of the configuration that `overrides` select. UserError: all that is wrong with them."""
    whole = []
    if not _looked_at(overrides, config_dir, multirun=False)[1]:
        try:
            return made(compose_config(overrides, config_dir=config_dir))
        except Failure as error:  # each may be fine alone
            whole = [why(error)]
    raise UserError(*(override_problems(overrides, config_dir=config_dir) or whole))


def takeable(overrides: list[str], *, config_dir: str | None = None) -> list[str] | None:
    """`overrides` without values that their keys do not take, so that more can be said of the others.

    None: more than that is wrong, and what lacks because of it would be told as further mistakes; or nothing is.
    """
    parsed, problems = _looked_at(overrides, config_dir, multirun=False)
    groups, values = _split(parsed, config_dir)
    good = [_one_value(each) for each in groups]
    if problems or not _composes(good, config_dir):
        return None
    known = keys(compose_config(good, config_dir=config_dir))
    wrong = [each for each in values if not _composes([*good, _one_value(each)], config_dir)]
    if not wrong or any(each.key_or_group not in known or each.is_add() or each.is_delete() for each in wrong):
        return None
    rest = [_one_value(each) for each in parsed if each not in wrong]
    return rest if _composes(rest, config_dir) else None


def forgotten_m(overrides: list[str], config_dir: str | None) -> list[str]:
    """Return a line if something was given that acts under -m alone; `overrides` compose."""
    if not config_dir and not any("hydra" in word for word in overrides):
        return []
    hydra = compose_config(overrides, config_dir=config_dir, hydra=True).hydra
    swept = ", ".join(f"{key}={value}" for key, value in (hydra.sweeper.params or {}).items())
    launcher = str(hydra.launcher._target_).rpartition(".")[2]
    found = []
    if swept:
        found.append(f"this is a sweep ({swept})")
    if launcher != "InProcess" or hydra.mode is not None:
        found.append(f"hydra/launcher ({launcher}) starts jobs" if launcher != "InProcess" else "hydra.mode is set")
    words = [word for word in overrides if not word.startswith("hydra.mode")]
    options = ["--config-dir", config_dir] if config_dir else []
    return [f"{' and '.join(found)}, which takes -m:\n  {command('-m', *options, *words)}"] if found else []


def _looked_at(overrides: list[str], config_dir: str | None, *, multirun: bool) -> tuple[list[Override], list[str]]:
    """The overrides parsed, and what is wrong with them before anything is composed."""
    if config_dir and not Path(config_dir).is_dir():
        return [], [f"--config-dir {config_dir}: there is no such folder"]
    parsed, problems = _parse(as_text(overrides))
    for override in parsed:
        if override.key_or_group.startswith("hydra.") and override.is_choice_sweep():
            problems.append(swept_launcher(override))
        elif override.is_sweep_override() and not multirun:
            problems.append(sweep_without_m(override, overrides))
        else:
            problems += filter(None, [_group_problem(override, config_dir) or _key_problem(override, config_dir)])
    return parsed, problems + two_lengths(parsed)


def _composes(lines: list[str], config_dir: str | None) -> bool:
    try:
        OmegaConf.to_container(compose_config(lines, config_dir=config_dir), resolve=False)
    except Failure:
        return False
    return True


def _parse(overrides: list[str]) -> tuple[list[Override], list[str]]:
    parser, parsed, problems = OverridesParser.create(), [], []
    for text in overrides:
        try:
            found = parser.parse_override(text)
            if found.key_or_group:
                parsed.append(found)
            else:
                problems.append(f"{shlex.quote(text)} is not an override (write key=value): no key")
        except HydraException as error:
            given = shlex.quote(text)
            problems.append(f"{given} is not an override (write key=value): {why(error)}{quoting(text)}")
    return parsed, problems


def _group_problem(override: Override, config_dir: str | None) -> str | None:
    """Say why a group has no such choice, before anything is composed."""
    text, group = override.input_line or "", override.key_or_group
    if override.is_delete() or "=" not in text:
        return None
    options = choices(group, config_dir)
    if not options or not group:
        return None
    if group in ("optimizer", "scheduler") and not override.package:
        options = [option for option in options if option != FOLLOWS]
    known = ", ".join(options)
    chosen = list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
    for value in chosen:
        if isinstance(value, list) or value in options:
            continue
        if value == FOLLOWS:
            return f"{text}: {FOLLOWS} follows the run's {group}, which this is. The choices: {known}"
        if isinstance(value, dict):
            return None  # values laid over the chosen file
        hint = did_you_mean(str(value), options) or "."
        shown = "null" if value is None else f"{value!r}"
        return f"{text}: there is no {group} named {shown}{hint} The choices: {known}"
    return None


def _key_problem(override: Override, config_dir: str | None) -> str | None:
    """Keys of the frame cannot be taken out: they would have their defaults, which is not what ~ asks for.

    Nor can a group be added that is not there.
    """
    text, key = override.input_line or "", override.key_or_group
    if override.is_delete() and is_field(key):
        return f"{text}: {key} cannot be taken out; give it a value (null switches off what may be off)"
    if override.is_add() and "." not in key and not is_field(key) and not is_group(key, config_dir):
        hint = suggest_key(key, [field.name for field in dataclasses.fields(RunConfig)])
        return f"{text}: there is no key and no group {key!r}{hint}. Groups of your own take --config-dir FOLDER"
    return None


def _split(overrides: list[Override], config_dir: str | None) -> tuple[list[Override], list[Override]]:
    """Group choices, then everything else."""

    def is_group(override: Override) -> bool:
        return bool(choices(override.key_or_group, config_dir))

    return (
        [o for o in overrides if is_group(o) and not _group_problem(o, config_dir)],
        [o for o in overrides if not is_group(o)],
    )


def _one_value(override: Override) -> str:
    """The override's text; of a sweep, its first value."""
    text = override.input_line or ""
    if not override.is_sweep_override():
        return text
    first = next(iter(override.sweep_string_iterator()))
    return f"{text.partition('=')[0]}={first}"


def _try(lines: list[str], override: Override, good: list[str], config_dir: str | None) -> str | None:
    try:
        OmegaConf.to_container(compose_config(lines, config_dir=config_dir), resolve=False)
    except Failure as error:
        return _explain(error, override, good, config_dir)
    return None


def _explain(error: Exception, override: Override, good: list[str], config_dir: str | None) -> str:
    """Say what is wrong with `override` beside the group choices `good`."""
    text, key = override.input_line or "", override.key_or_group
    reason = why(error)
    place = place_of_loss(override, config_dir)
    if place:
        return f"{text}: a loss goes into a step's trainer: {place}"
    if "Could not override" in reason or "Could not delete" in reason or "is not in struct" in reason:
        if override.package and choices(key, config_dir) and not (override.is_add() or override.is_delete()):
            return f"{text}: nothing stands at {override.package} yet: write {shlex.quote(f'+{text}')}"
        config = compose_config(good, config_dir=config_dir)
        known = keys(config)
        off = None if key in known or override.is_delete() else way_on(config, override, known, config_dir)
        if off:
            return f"{text}: {off}"
        if key.startswith("model.autoencoder.") and "model.autoencoder.path" not in known:
            return f"{text}: {key} is of diffusers' autoencoders: write model/autoencoder=diffusers with it"
        if key not in known:
            where = "".join(f" with {line}" for line in good if key.startswith(line.partition("=")[0]))
            return f"{text}: there is no key {key!r}{where}{suggest_key(key, known)}"
    return f"{text}: {reason}"
