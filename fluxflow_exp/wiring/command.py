"""`python -m fluxflow_exp.wiring OVERRIDES…`: whether all that is configured acts, before anything is trained.

Losses computed without gradients, averages that are never updated, options that nothing reads: such defects train
without an error. Each step is built at toy size and taken through a few updates of every kind that it has.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fluxflow_exp import __version__, files
from fluxflow_exp.config import published
from fluxflow_exp.config.compose import resolve, typed
from fluxflow_exp.config.overrides import compose_config, values_of
from fluxflow_exp.console import aligned
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import clock
from fluxflow_exp.preflight.idle import idle_problems
from fluxflow_exp.run import failures, frozen, lookup
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.wiring.check import ACTS, Check

FORMAT = 1


def check(values: dict[str, Any], *, say: Callable[[str], None] = print) -> list[Check]:
    """Checks of every step of the resolved configuration `values`. UserError: a step cannot be built."""
    from fluxflow_exp.step_length import length_of  # torch, which --help does without
    from fluxflow_exp.wiring import gradients, keys_act, toy_trainer, weights_move
    from fluxflow_exp.wiring.shrink import shrink

    config = typed(values)
    small, changes = shrink(values)
    found: list[Check] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in values["stage"]["steps"]:
            data = toy_trainer.open_data(config, name)
            length = length_of(config.stage.steps[name], data, config)
            tried = toy_trainer.ToyTrainer(small, name, data, length, Path(scratch))
            say(_made(name, tried, data.img_size, changes))
            found += [*gradients.checks(tried), *weights_move.checks(tried), *keys_act.Effects(tried).checks()]
    return found


def certificate(checks: list[Check]) -> dict[str, Any]:
    """The content of `wiring.json`."""
    return {
        "format": FORMAT,
        "date": clock.date(),
        "version": __version__,
        "passed": all(each.passed for each in checks),
        "checks": [asdict(each) for each in checks],
    }


def table(checks: list[Check], *, every: bool = False) -> str:
    """One line a check; keys that act are counted unless `every` one is asked for."""
    lines: list[tuple[str, str, str, str]] = []
    acting: dict[str, int] = {}
    for each in checks:
        if not every and each.passed and each.check.endswith(ACTS):
            acting[each.step] = acting.get(each.step, 0) + 1
        else:
            lines.append((each.step or "(run)", each.check, "ok" if each.passed else "FAILED", each.note))
    lines += [(step or "(run)", f"{n} keys act", "ok", "--all lists them") for step, n in acting.items()]
    lines.sort(key=lambda line: [each.step or "(run)" for each in checks].index(line[0]))
    return "\n".join(aligned(lines))


def _made(name: str, tried: Any, img_size: int, changes: dict[str, tuple[Any, Any]]) -> str:
    """Say what is checked, and what is not as it will be trained."""
    mine = {
        key: pair
        for key, pair in changes.items()
        if key.startswith(f"stage.steps.{name}.") or (key.startswith("model.") and key.split(".")[1] in tried.parts)
    }
    size = [] if tried.side == img_size else [f"images {img_size} → {tried.side} px, made smaller after reading"]
    shrunk = [f"{key.rpartition('stage.steps.')[2]} {was} → {now}" for key, (was, now) in mine.items()]
    updates = ", ".join(str(index + 1) for index in tried.updates)
    return (
        f"Step {name}: updates {updates} of {tried.length.updates}, on a CPU in float32, from fresh weights.\n"
        f"  Smaller than in the run: {'; '.join([*size, *shrunk]) or 'nothing'}"
    )


@failures.command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.wiring",
        description="Check that all that is configured acts: losses give gradient to their parts and to no other, "
        "optimizers and averages move, schedules are followed, every key changes something. Steps run for a few "
        "updates at toy size, on a CPU.",
        epilog="Examples: python -m fluxflow_exp.wiring stage=vae_gan model=compact; python -m fluxflow_exp.wiring "
        "--run outputs/full. Exit code: 0 all passed, 1 a check failed, 2 the configuration is wrong.",
    )
    parser.add_argument("overrides", nargs="*", help="as of the training command")
    parser.add_argument("--run", type=Path, metavar="RUN", help="check a run's configuration; write RUN/wiring.json")
    parser.add_argument("--trust", action="append", default=[], metavar="WORD", help=f"with --run, {published.TRUST}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the checks there, too")
    parser.add_argument("--all", action="store_true", help="list every key")
    parser.add_argument("--config-dir", help="the folder of your own groups")
    options = parser.parse_intermixed_args(arguments)
    published.allow(options.trust)
    if options.run and options.overrides:
        raise UserError("--run takes the run's own configuration: leave the overrides out")
    idle = idle_problems({"--trust": options.trust or None}, acts=bool(options.run), needs="--run")
    idle += idle_problems({"--config-dir": options.config_dir}, acts=not options.run, needs="overrides")
    if idle:
        raise UserError(*idle)
    options.run = options.run and lookup.one(options.run).path
    found = _of_run(options.run) if options.run else _of_overrides(options.overrides, options.config_dir)
    written = certificate(found)
    print(table(found, every=options.all))
    if options.json:
        files.write_json(options.json, written)
    if options.run:
        with failures.output("The checks stand above; --json FILE writes them elsewhere, but not on the run's card"):
            files.write_json(options.run / "wiring.json", written)
    failed = sum(not each.passed for each in found)
    print(f"FAILED: {failed} of {len(found)} checks" if failed else f"PASSED: {len(found)} checks")
    return 1 if failed else 0


def _of_run(path: Path) -> list[Check]:
    return check(frozen.to_build(RunFolder(path).config))


def _of_overrides(words: list[str], config_dir: str | None) -> list[Check]:
    from fluxflow_exp.preflight.check import problems
    from fluxflow_exp.wiring import keys_act

    values = values_of(words, config_dir=config_dir)
    config = compose_config(words, config_dir=config_dir)
    found = problems(values, here=False)
    if found:
        raise UserError(*found)
    named = {word.lstrip("+").partition("=")[0] for word in words}
    return keys_act.shared(config, resolve, named) + check(values)
