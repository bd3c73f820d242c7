"""From YAML and command line to one typed, resolved configuration; and from a node to an object.

`instantiate` is the only place where configuration becomes objects. Below `trainers/build.py` there are only these.
"""

import copy
import functools
import pickle
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fluxflow_exp.config import autoencoder, published, starting_model
from fluxflow_exp.config.published import PARTIAL, TARGET
from fluxflow_exp.config.schema import RunConfig
from fluxflow_exp.errors import UserError

ConfigStore.instance().store(name="schema", node=RunConfig)

# Words of WANDB_MODE → those of tracking.mode; the rest are the same.
WANDB_MODES = {"disabled": "off", "dryrun": "offline", "run": "online", "": "auto"}
PARTS = ("compressor", "expander", "flow_processor", "text_encoder", "discriminator")


def conf_dir() -> str:
    """The folder of config groups: inside the package when installed, at the top of a checkout otherwise."""
    package = Path(__file__).parents[1]
    packaged = package / "conf"
    return str(packaged if packaged.is_dir() else package.parent / "conf")


def instantiate(node: dict[str, Any], **objects: Any) -> Any:
    """Build what `node["_target_"]` names, nodes within it first; live `objects` reach it as they are.

    With `_partial_: true` it is what is left to be called. ValueError: the target may not be built (published.py), or
    its constructor says so: then it is written for the user.
    """
    arguments = {key: _built(value) for key, value in node.items() if key not in (TARGET, PARTIAL)}
    target = published.locate(node[TARGET])
    return partial(target, **arguments) if node.get(PARTIAL) else target(**arguments, **objects)


def _built(value: Any) -> Any:
    """An argument, of which nothing is shared with the configuration."""
    if isinstance(value, dict):
        return instantiate(value) if TARGET in value else {key: _built(child) for key, child in value.items()}
    return [_built(child) for child in value] if isinstance(value, list) else value


def resolve(config: DictConfig, *, own: bool = True) -> dict[str, Any]:
    """The configuration as plain values: interpolations resolved, players given their optimizers and schedulers.

    `own`: it was composed from what the user of this process has typed, so that what it names may be built.
    UserError: `init_from` names no weights that model=published can be that of.
    """
    starting_model.fill(config)
    values = cast(dict[str, Any], OmegaConf.to_container(_with_autoencoder(config), resolve=True))
    values.pop("hydra", None)
    values["model"].pop("autoencoder", None)  # what its parts take of it, they have
    tracking = values["tracking"]
    tracking["mode"] = WANDB_MODES.get(tracking["mode"], tracking["mode"])
    if values.get("minutes") is None:
        values.pop("minutes", None)  # what is not asked for is no difference to earlier runs
    for step in values["stage"]["steps"].values():
        if step.get("minutes") is None:
            step.pop("minutes", None)
        for group, run_wide in (("optimizers", "optimizer"), ("schedulers", "scheduler")):
            step[group] = {player: _follow(node, values[run_wide]) for player, node in step[group].items()}
    starting_model.start(values)
    if own:
        published.allow_all(values)
    return values


def _with_autoencoder(config: DictConfig) -> DictConfig:
    """`config` with what its config.json of diffusers says in the place of the file's name. UserError."""
    if OmegaConf.select(config, "model.autoencoder") is None:
        return config
    there = copy.deepcopy(config)
    given = cast(dict[str, Any], OmegaConf.to_container(there.model.autoencoder, resolve=True))
    unknown = [key for key in given if key not in ("path", "config")]
    if unknown:
        raise UserError(f"model.autoencoder.{unknown[0]}: there is no such key; it has path and config")
    there.model.autoencoder.config = autoencoder.chosen(given["path"], given["config"])
    return there


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
        return cast(RunConfig, OmegaConf.to_object(laid_over_frame(values)))
    except OmegaConfBaseException as error:
        where = f" ({error.full_key})" if error.full_key else ""
        raise UserError(f"the configuration does not fit this version: {str(error).splitlines()[0]}{where}") from error


def laid_over_frame(values: dict[str, Any]) -> DictConfig:
    """`values` with the defaults and types of the frame's dataclasses, to be read. OmegaConfBaseException: no fit.

    A command checks what it then trains: the same values, which take a tenth of a second, are not merged twice.
    """
    return _laid_over_frame(pickle.dumps(values))


@functools.lru_cache(8)
def _laid_over_frame(pickled: bytes) -> DictConfig:
    return cast(DictConfig, OmegaConf.merge(_frame(), pickle.loads(pickled)))


@functools.cache
def _frame() -> Any:
    return OmegaConf.structured(RunConfig)


def _follow(node: Any, run_wide: Any) -> Any:
    """A player's node without a target of its own is the run's node with the player's keys laid over it."""
    if not isinstance(node, dict) or not isinstance(run_wide, dict):
        return node  # preflight says what it is instead
    return node if "_target_" in node else {**copy.deepcopy(run_wide), **node}
