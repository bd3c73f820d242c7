"""The training command: `fluxflow-train`, the same as `python -m fluxflow_exp`.

`main` lives here and not in `__main__.py`, so that launchers can pickle it by name.
"""

import sys
import time

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fluxflow_exp.config import UserError, conf_dir, resolve
from fluxflow_exp.console import fail
from fluxflow_exp.overrides import Failure, compose_config, override_problems

STARTED = time.monotonic()
FLAGS = ("--multirun", "-m", "--run", "-r")


def cli() -> None:
    """Check the command line as a whole, then let Hydra compose and run."""
    sys.argv[1:] = _flags_first(sys.argv[1:])
    arguments = get_args_parser().parse_args(sys.argv[1:])
    if not (arguments.help or arguments.hydra_help or arguments.shell_completion):
        problems = override_problems(arguments.overrides, config_dir=arguments.config_dir)
        if not problems and not arguments.multirun:
            problems = _whole(arguments.overrides, arguments.config_dir)
        if problems:
            fail(problems)
            sys.exit(2)
    main()


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")
def main(config: DictConfig) -> None:
    """Train what `config` describes."""
    from fluxflow_exp import pipeline, preflight

    values = resolve(config)
    problems = preflight.problems(values)
    if problems:
        fail(problems)
        sys.exit(2)
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    swept = pipeline.sweep_folder(list(HydraConfig.get().overrides.task)) if sweeping else ""
    try:
        pipeline.run(values, swept=swept, started=None if sweeping else STARTED)
    except UserError as error:
        fail([str(error)])
        sys.exit(2)


def _whole(overrides: list[str], config_dir: str | None) -> list[str]:
    """What is wrong with the overrides taken together, each being fine alone."""
    try:
        resolve(compose_config(overrides, config_dir=config_dir))
    except (*Failure, OmegaConfBaseException) as error:
        return [" ".join(str(error).split())]
    return []


def _flags_first(arguments: list[str]) -> list[str]:
    """Hydra's parser refuses a flag between overrides; their order does not matter, so flags go first."""
    return [a for a in arguments if a in FLAGS] + [a for a in arguments if a not in FLAGS]


if __name__ == "__main__":
    cli()
