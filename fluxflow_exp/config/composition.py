"""Hydra's composition; the files of a choice of groups are read and merged once a process: nearly all of its time.

A command composes the same choice again and again: to check each word, and for each run that it shows.
"""

import copy
import functools
import os
from contextlib import suppress
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig

from fluxflow_exp.config.compose import conf_dir

KEPT = 64  # choices of groups


def composed_of(words: list[str], *, config_dir: str | None = None, hydra: bool = False) -> DictConfig:
    """The configuration that the overrides `words` select, with Hydra's own if `hydra`.

    `config_dir` is searched beside the shipped groups. HydraException, OmegaConfBaseException: there is none.
    """
    parsed = OverridesParser.create().parse_overrides(words)
    if config_dir or hydra or any(each.is_sweep_override() or _is_hydras(each) for each in parsed):
        return _by_hydra(words, config_dir, hydra=hydra)
    choices = tuple(each.input_line or "" for each in parsed if _is_choice(each))
    config = copy.deepcopy(_of_groups(choices, _shipped_files()))
    # Hydra (below 1.4, as pyproject.toml has it) lays values over files in this private function alone. Its public ways
    # give the same and take longer: compose() of all words 22 times as long, of the files in its ConfigStore 7 times.
    try:
        ConfigLoaderImpl._apply_overrides_to_config([each for each in parsed if not _is_choice(each)], config)
    except (ValueError, AssertionError) as error:
        raise ConfigCompositionException(str(error)) from error
    return config


@functools.lru_cache(KEPT)
def _of_groups(words: tuple[str, ...], files: tuple[tuple[str, int, int], ...]) -> DictConfig:
    return _by_hydra(list(words), None, hydra=False)


def _by_hydra(words: list[str], config_dir: str | None, *, hydra: bool) -> DictConfig:
    GlobalHydra.instance().clear()
    Plugins.instance()
    extra = [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"] if config_dir else []
    with initialize_config_dir(conf_dir(), version_base="1.3", job_name="fluxflow_exp"):
        try:
            return compose("config", overrides=[*extra, *words], return_hydra_config=hydra)
        except (ValueError, AssertionError) as error:  # some of Hydra's own checks end so
            raise ConfigCompositionException(str(error)) from error


def _is_hydras(override: Override) -> bool:
    return override.key_or_group.startswith("hydra")


def _is_choice(override: Override) -> bool:
    """Whether Hydra takes it for the choice of a file, and not for a value laid over the files."""
    return Path(conf_dir(), override.key_or_group).is_dir() and not isinstance(override.value(), dict)


def _shipped_files() -> tuple[tuple[str, int, int], ...]:
    """What is read again when it has changed: each file's path, time and size."""
    found = []
    for folder, _, names in os.walk(conf_dir(), followlinks=True):
        for name in names:
            path = os.path.join(folder, name)
            with suppress(FileNotFoundError):  # an editor's, which comes and goes
                about = os.stat(path)
                found.append((path, about.st_mtime_ns, about.st_size))
    return tuple(sorted(found))
