"""What a step leaves out: losses that are off, and arguments of what is built, and the word that switches one on."""

import inspect
import shlex

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from fluxflow_exp.config.choices import loss_at
from fluxflow_exp.config.published import is_known, locate


def way_on(config: DictConfig, override: Override, known: list[str], config_dir: str | None) -> str | None:
    """How to switch on what is left out so far at a key, or just above it; None: nothing may stand there."""
    key, whole = override.key_or_group, override.key_or_group.rpartition(".")[0]
    if _takes(config, key):
        loss = loss_at(key, config_dir)
        way = f"loss@{key}={loss}" if loss else override.input_line
        return f"{key} is off, and to be added: write {shlex.quote(f'+{way}')}"
    loss = loss_at(whole, config_dir) if whole not in known and _takes(config, whole) else None
    word = shlex.quote(f"+loss@{whole}={loss}")
    return f"{whole} is off: write {word} as well, which switches it on" if loss else None


def _takes(config: DictConfig, key: str) -> bool:
    """Whether `key` is an argument, left out so far, of what is built where it stands."""
    above, _, leaf = key.rpartition(".")
    target = OmegaConf.select(config, f"{above}._target_")
    if not isinstance(target, str) or not is_known(target):
        return False
    taken = inspect.signature(locate(target)).parameters.get(leaf)
    return taken is not None and taken.default is not inspect.Parameter.empty
