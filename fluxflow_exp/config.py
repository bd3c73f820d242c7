"""From YAML and command line to one typed, resolved configuration; and from a node to an object.

`instantiate` is the only place where configuration becomes objects. Below `pipeline.py` there is no configuration.
"""

import copy
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import hydra.utils
from hydra.core.config_store import ConfigStore
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fluxflow_exp.schema import RunConfig

ConfigStore.instance().store(name="schema", node=RunConfig)

PARTS = ("compressor", "expander", "flow_processor", "text_encoder", "discriminator")


class UserError(ValueError):
    """Something that the user can put right, or several (`args`); shown without a traceback, exit code 2."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


def conf_dir() -> str:
    """The folder of config groups: inside the package when installed, at the top of a checkout otherwise."""
    packaged = Path(__file__).parent / "conf"
    return str(packaged if packaged.is_dir() else Path(__file__).parents[1] / "conf")


def instantiate(node: dict[str, Any], **objects: Any) -> Any:
    """Build what `node["_target_"]` names. Lists and dicts reach it as plain values, live `objects` as they are.

    A ValueError of a constructor comes through as it is: it is written for the user.
    """
    try:
        if not objects:
            return hydra.utils.instantiate(node, _convert_="all")
        # Hydra would copy dataclasses and lists among the objects into its own containers.
        return hydra.utils.instantiate({**node, "_partial_": True}, _convert_="all")(**objects)
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise


def locate(name: str) -> Any:
    """The class or function that a `_target_` names. ImportError, AttributeError: there is none."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def resolve(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values: interpolations resolved, players given their optimizers and schedulers."""
    values = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    values.pop("hydra", None)
    for step in values["stage"]["steps"].values():
        for group, run_wide in (("optimizers", "optimizer"), ("schedulers", "scheduler")):
            step[group] = {player: _follow(node, values[run_wide]) for player, node in step[group].items()}
    return values


def chosen(choices: Mapping[str, Any]) -> dict[str, str]:
    """Config group → the file that was chosen of it, from Hydra's record; those of Hydra and of players left out."""
    return {
        group: str(file)
        for group, file in sorted(choices.items())
        if "@" not in group and not group.startswith("hydra/") and file is not None
    }


def typed(values: dict[str, Any]) -> RunConfig:
    """The dataclasses of the frame filled with resolved `values`. UserError: those of a run of another version."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RunConfig), copy.deepcopy(values))
        return cast(RunConfig, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        where = f" ({error.full_key})" if error.full_key else ""
        raise UserError(f"the configuration does not fit this version: {str(error).splitlines()[0]}{where}") from error


def _follow(node: Any, run_wide: Any) -> Any:
    """A player's node without a target of its own is the run's node with the player's keys laid over it."""
    if not isinstance(node, dict) or not isinstance(run_wide, dict):
        return node  # preflight says what it is instead
    return node if "_target_" in node else {**copy.deepcopy(run_wide), **node}
