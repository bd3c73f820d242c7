"""`python -m fluxflow_exp.plan stage=… model=… hardware=…`: predict what a run will need; no GPU is used."""

import argparse
import statistics
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fluxflow_exp import files
from fluxflow_exp.config.compose import typed
from fluxflow_exp.config.overrides import values_of
from fluxflow_exp.config.schema import RunConfig
from fluxflow_exp.errors import UserError
from fluxflow_exp.run import failures, time_budget


@failures.command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.plan",
        description="Predict memory, work, time, money and disk of a run, step by step. Nothing is trained; no GPU is "
        "needed.",
        epilog="Example: python -m fluxflow_exp.plan stage=full model=compact hardware=rtx4090 data.img_size=256 "
        "hardware.price_per_hour=0.5. A step takes 10 s to two minutes. Exit code: 0, 1 if a step does not fit the "
        "card, 2 if the configuration is wrong.",
    )
    parser.add_argument("override", nargs="*", help="what the run would be given: stage=… model=… hardware=… KEY=VALUE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the prediction as JSON to FILE")
    parser.add_argument("--config-dir", help="the folder of your own groups")
    options = parser.parse_intermixed_args(arguments)
    found = predict(values_of(options.override, config_dir=options.config_dir))
    if options.json:
        files.write_json(options.json, found)
    return 1 if found["total"]["fits"] is False else 0


def predict(values: dict[str, Any], *, diverging: bool = False) -> dict[str, Any]:
    """Say what each step will need, as soon as it is known. UserError: the configuration is wrong.

    Updates that are timed and are not finite are an error, too, unless they may be `diverging`.
    """
    # Torch and its compiler, which --help does without.
    from fluxflow_exp.benchmark.measurement import warm
    from fluxflow_exp.data.build import build_data
    from fluxflow_exp.machine.hardware import trains_on_cpu
    from fluxflow_exp.plan import forecast
    from fluxflow_exp.preflight import check
    from fluxflow_exp.step_length import lengths_of
    from fluxflow_exp.step_plan import data_line, step_lines

    wrong = check.problems(values, here=False)
    if wrong:
        raise UserError(*wrong)
    config = typed(values)
    data, hardware, ranks = build_data(config), config.hardware, config.hardware.ranks
    cards = f"{ranks} x {hardware.name}" if ranks > 1 else hardware.name
    print(f"PREDICTION: {config.name} (stage={config.stage.name}, model={config.model.name}, hardware={cards})")
    for each in {id(each): each for each in data.values()}.values():
        print(f"  data: {data_line(each)}; {hardware.precision} on the card")
    for note in _reservations(config):
        print(f"  note: {note}")
    found, lengths = [], lengths_of(config, data, ranks=ranks)
    for index, (name, step) in enumerate(config.stage.steps.items(), start=1):
        minutes = time_budget.asked(config, name)
        print(step_lines(index, name, step, lengths[name], ranks, config.model, minutes=minutes)[0], flush=True)
        measured = None
        if trains_on_cpu(hardware.device):  # so that an update can be timed
            with warm(values, name, diverging=diverging) as times:
                measured = statistics.median(times(3))
        found.append(forecast.forecast(config, name, lengths[name], data[name], ranks=ranks, measured=measured))
        if minutes is not None:
            found[-1] = forecast.timed(found[-1], minutes, hardware, ranks=ranks)
        print("\n".join(forecast.lines(found[-1], hardware)), flush=True)
    total = forecast.total(found)
    print(forecast.total_line(total))
    return {"name": config.name, "hardware": hardware.name, "steps": [asdict(each) for each in found], "total": total}


def _reservations(config: RunConfig) -> list[str]:
    """Where the prediction cannot be what a run will meet."""
    from fluxflow_exp.machine.hardware import trains_on_cpu
    from fluxflow_exp.step_plan import needed_parts

    hardware, found = config.hardware, []
    if trains_on_cpu(hardware.device):
        found.append("memory is that of a GPU: a CPU takes more, and nothing of it is predicted")
    used = {part for step in config.stage.steps.values() for part in needed_parts(step)}
    if "bezier" in config.model.activations(used).values() and find_spec("triton") is None:
        found.append("without the package triton a Bezier activation is predicted as it is on a CPU: with more memory")
    if config.cache.max_gib is not None:
        found.append("cache.max_gib is left out: what exceeds it takes memory and time at each update")
    if hardware.parallel == "fsdp":
        found.append("hardware.parallel=fsdp: memory is a rank's; time is predicted without exchanges")
    return found
