"""The training command: `fluxflow-train`, the same as `python -m fluxflow_exp`.

`main` lives here and not in `__main__.py`, so that launchers can pickle it by name.
"""

import gc
import shlex
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from fluxflow_exp.config import commands
from fluxflow_exp.config.compose import chosen, conf_dir, resolve
from fluxflow_exp.config.override_words import as_text
from fluxflow_exp.config.overrides import forgotten_m, override_problems, values_of
from fluxflow_exp.console import fail
from fluxflow_exp.errors import ToldElsewhere, UserError
from fluxflow_exp.machine import clock, environment, exits, starting
from fluxflow_exp.machine.preemption import SIGNALS
from fluxflow_exp.monitor.start_up import StartUp
from fluxflow_exp.run import failures

# Options of FluxFlow Training's command → what does it here. {0}: the option's value.
FORMER = {
    "--config": "python -m fluxflow_exp.convert config {0} converted/stage/{1}.yaml\n"
    "  python -m fluxflow_exp --config-dir converted stage={1}",
    "--validate-pipeline": "python -m fluxflow_exp stage=STAGE validate=true",
    "--generate_diagrams": "python -m fluxflow_exp.plot outputs/NAME    (a run draws its graphs by itself, too)",
}
# Hydra's options that take the next word.
WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")


def cli() -> None:
    """The training command."""
    try:
        _checked()
    except KeyboardInterrupt as stopped:  # before `main` listens, or in a sweep
        _interrupted(stopped)


def _checked() -> None:
    """Check the command line as a whole, then let Hydra compose and run."""
    environment.settle()
    other = commands.meant(sys.argv[1:])
    former = [other] if other else _former_options(sys.argv[1:])
    if former:
        _refused(former)
    sys.argv[1:] = _options_first(as_text(sys.argv[1:]))
    arguments = get_args_parser().parse_args(sys.argv[1:])
    if not (arguments.help or arguments.hydra_help or arguments.shell_completion):
        problems = _problems(arguments.overrides, arguments.config_dir, multirun=arguments.multirun)
        if problems:
            _refused(problems)
        if arguments.multirun:
            from fluxflow_exp.sweep import launchers  # they import all that a job does

            launchers.register()
            starting.over()
    try:
        main()
    finally:  # Hydra leaves by sys.exit after its help
        if arguments.help:
            print(commands.listed())


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")
def main(config: DictConfig) -> None:
    """Train what `config` describes."""
    values = resolve(config)
    values["choices"] = chosen(HydraConfig.get().runtime.choices)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        _job(values, list(HydraConfig.get().overrides.task))
        return
    try:
        train(values, start_up=StartUp(clock.process_began()))
    except ToldElsewhere:
        sys.exit(2)
    except UserError as error:
        _refused(list(error.args))
    except OSError as error:
        _refused([failures.of_file(error)])
    except KeyboardInterrupt as stopped:  # by a second Ctrl-C, the first one saves; or before the run listens to any
        _interrupted(stopped)


def _refused(problems: list[str]) -> NoReturn:
    exits.let_first_tell()
    fail(problems)
    sys.exit(2)


def _interrupted(stopped: KeyboardInterrupt) -> NoReturn:
    if exits.first_here():
        fail([str(stopped) or starting.TOLD])
    sys.exit(130)


def _job(values: dict[str, Any], overrides: list[str]) -> None:
    """A job of a sweep: as it was launched, with an error as an exception, and with memory given back at the end."""
    import torch

    from fluxflow_exp.machine import ranks
    from fluxflow_exp.sweep import jobs

    environment.settle()  # a scheduler's job comes here without the command
    try:
        values, swept, changed = jobs.launched(values, overrides)
    except UserError as error:
        fail(list(error.args))
        raise
    print(f"\n{'#' * 80}\n# {swept}", flush=True)
    if changed:
        print(f"Note: {', '.join(changed)} changed in the configuration files since the launch; this job keeps its own")
    try:
        train(values, swept=swept)
    except Exception as error:
        if isinstance(error, UserError):
            fail(list(error.args))
        else:
            traceback.print_exc()
        if not ranks.started():
            jobs.note_failure(values, swept, error)
        raise
    except KeyboardInterrupt as stopped:
        told = str(stopped) or f"stopped at once, before {swept} began. The same command goes on with the sweep"
        raise KeyboardInterrupt(told) from None
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def train(values: dict[str, Any], *, swept: str = "", start_up: StartUp | None = None) -> None:
    """Check the resolved configuration `values`, then train it, in this process or in one for each device.

    `swept` names a sweep's job folder; the run's time begins with `start_up`, by default now. UserError: what is wrong,
    or a rank was killed. SystemExit: a signal stopped it after a save.
    """
    start_up = start_up or StartUp()
    start_up.ends("command")
    from fluxflow_exp import pipeline
    from fluxflow_exp.machine import ranks, spawn
    from fluxflow_exp.preflight import check
    from fluxflow_exp.run import refusals

    start_up.ends("imports")
    starting.over()
    if not values["validate"]:
        values = ranks.with_started_nodes(values)
    # The plan of another machine's run is one, too: it says what is lacking here.
    problems = check.problems(values, here=not values["validate"]) or refusals.sharing_problems(values, swept=swept)
    if problems:
        raise UserError(*problems)
    start_up.ends("checks")
    devices = values["hardware"]["devices"]
    if devices == 1 or values["validate"] or ranks.started():
        pipeline.run(values, swept=swept, start_up=start_up)
        return
    code = spawn.run_ranks(values, swept=swept, count=devices, start_up=start_up)
    stopped = code - 128 in SIGNALS  # asked to, after a save; SIGKILL, as when memory is short, is this job's failure
    if code and swept and not stopped:
        raise RuntimeError(f"a rank ended with exit code {code}")
    if code:
        sys.exit(code)


def _former_options(arguments: list[str]) -> list[str]:
    """One line with the command to give instead, for each option of FluxFlow Training."""
    found = []
    for index, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        if option in FORMER:
            given = value or (
                arguments[index + 1] if option == "--config" and index + 1 < len(arguments) else "OLD.yaml"
            )
            command = FORMER[option].format(*map(shlex.quote, (given, Path(given).stem)))
            found.append(f"{option} is an option of FluxFlow Training. Here:\n  {command}")
    return found


def _problems(overrides: list[str], config_dir: str | None, *, multirun: bool) -> list[str]:
    """Return what is wrong with the command line, one line each."""
    if multirun:  # whether they go together is looked at job by job
        return override_problems(overrides, config_dir=config_dir, multirun=True)
    try:
        values_of(overrides, config_dir=config_dir)
    except UserError:
        from fluxflow_exp.preflight import words  # torch

        return words.problems(overrides, here=True, config_dir=config_dir)
    return forgotten_m(overrides, config_dir)


def _options_first(arguments: list[str]) -> list[str]:
    """Hydra's parser refuses an option between overrides; their order does not matter, so options go first."""
    options: list[str] = []
    overrides: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        options.append(argument)
        if argument in WITH_VALUE:
            options += [value for value in [next(waiting, None)] if value is not None]
    return options + overrides


if __name__ == "__main__":
    cli()
