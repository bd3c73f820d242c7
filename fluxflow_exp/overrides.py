"""The command line checked before Hydra reads it: every bad override is reported at once, in the user's words.

Hydra stops at the first one. Each override is composed here alone with the group choices, so that one mistake does
not hide another.
"""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fluxflow_exp.config import conf_dir

Failure = (HydraException, OmegaConfBaseException)


def compose_config(overrides: list[str], *, config_dir: str | None = None, hydra: bool = False) -> DictConfig:
    """The configuration that `overrides` select, with Hydra's own if `hydra`.

    `config_dir` is searched beside the shipped groups.
    """
    GlobalHydra.instance().clear()
    Plugins.instance()
    extra = [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"] if config_dir else []
    with initialize_config_dir(conf_dir(), version_base="1.3", job_name="fluxflow_exp"):
        return compose("config", overrides=[*extra, *overrides], return_hydra_config=hydra)


def override_problems(overrides: list[str], *, config_dir: str | None = None) -> list[str]:
    """One line for every override that cannot be applied; empty when all can."""
    if config_dir and not Path(config_dir).is_dir():
        return [f"--config-dir {config_dir}: there is no such folder"]
    parsed, problems = _parse(overrides)
    problems += [
        f"{each.input_line}: the launcher's settings cannot be swept. A value with a comma in it is quoted twice: "
        f"""'{(each.input_line or "").replace("=", '="', 1)}"'"""
        for each in parsed
        if each.key_or_group.startswith("hydra.") and each.is_choice_sweep()
    ]
    if not problems and _composes([_one_value(each) for each in parsed], config_dir):
        return []  # looking at them one by one takes a composition each
    groups, values = _split(parsed, config_dir)
    good: list[str] = []
    for override in groups:
        line = _one_value(override)
        problem = _try([*good, line], override, config_dir)
        if problem:
            problems.append(problem)
        else:
            good.append(line)
    for override in values:
        if override.key_or_group.startswith("hydra"):
            continue
        problems += filter(None, [_try([*good, _one_value(override)], override, config_dir)])
    return problems


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
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            reason = str(error).splitlines()[0]
            problems.append(f"{text!r} is not an override (write key=value): {reason}")
    return parsed, problems


def _split(overrides: list[Override], config_dir: str | None) -> tuple[list[Override], list[Override]]:
    """Group choices, then everything else."""

    def is_group(override: Override) -> bool:
        return bool(_choices(override.key_or_group, config_dir))

    return (
        [o for o in overrides if is_group(o)],
        [o for o in overrides if not is_group(o)],
    )


def _loader(config_dir: str | None) -> ConfigLoader:
    compose_config([], config_dir=config_dir)
    with initialize_config_dir(conf_dir(), version_base="1.3", job_name="fluxflow_exp"):
        return GlobalHydra.instance().config_loader()


def _choices(group: str, config_dir: str | None) -> list[str]:
    """The shipped choices of a group, and those of the user's own folder."""
    own = sorted(p.stem for p in (Path(config_dir) / group).glob("*.yaml")) if config_dir else []
    return list(dict.fromkeys([*_loader(config_dir).get_group_options(group), *own]))


def _one_value(override: Override) -> str:
    """The override's text; of a sweep, its first value."""
    text = override.input_line or ""
    if not override.is_sweep_override():
        return text
    first = next(iter(override.sweep_string_iterator()))
    return f"{text.partition('=')[0]}={first}"


def _try(lines: list[str], override: Override, config_dir: str | None) -> str | None:
    try:
        OmegaConf.to_container(compose_config(lines, config_dir=config_dir), resolve=False)
    except Failure as error:
        return _explain(error, override, config_dir)
    return None


def _explain(error: Exception, override: Override, config_dir: str | None) -> str:
    text, key = override.input_line or "", override.key_or_group
    options = _choices(key, config_dir)
    value = str(override.value()) if "=" in text else ""
    if options and "=" in text and value not in options:
        hint = did_you_mean(value, options) or "."
        return f"{text}: there is no {key} named {value!r}{hint} The choices: {', '.join(options)}"
    first = re.sub(r"\s+", " ", str(error).splitlines()[0])
    if "not in" in first or "Could not override" in first or "Could not delete" in first:
        known = _keys(compose_config([], config_dir=config_dir))
        return f"{text}: there is no key {key!r}{suggest_key(key, known)}"
    return f"{text}: {first}"


def _keys(config: DictConfig) -> list[str]:
    found: list[str] = []

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for name, child in node.items():
                where = f"{path}.{name}" if path else str(name)
                found.append(where)
                walk(child, where)

    walk(OmegaConf.to_container(config, resolve=False), "")
    return found


def suggest_key(key: str, known: Iterable[str]) -> str:
    """ "; did you mean …?" for the known key nearest to `key`: a neighbour, or one of that name elsewhere."""
    known = list(known)
    parent, _, leaf = key.rpartition(".")
    siblings = [k for k in known if k.rpartition(".")[0] == parent]
    by_leaf = {k.rpartition(".")[2]: k for k in reversed(known)}
    near = [by_leaf[leaf]] if leaf in by_leaf else difflib.get_close_matches(key, siblings, 1, 0.6)
    if not near:
        near = [by_leaf[n] for n in difflib.get_close_matches(leaf, by_leaf, 1, 0.7)]
    near = near or difflib.get_close_matches(key, known, 1, 0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(allowed), 1, 0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
