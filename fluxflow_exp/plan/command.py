"""What a run is going to do, derived from its configuration and said before it starts.

`python -m fluxflow_exp.plan stage=… model=… hardware=…` also predicts what it will need; no GPU is used.
"""

import argparse
import statistics
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from fluxflow_exp import files
from fluxflow_exp.config.compose import instantiate, typed
from fluxflow_exp.config.overrides import values_of
from fluxflow_exp.config.published import locate
from fluxflow_exp.config.schema import RunConfig, Step
from fluxflow_exp.console import fail
from fluxflow_exp.data.loader import groups_of, updates_per_epoch
from fluxflow_exp.data.protocols import DataSet, Stream, notes_of
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine.hardware import Machine
from fluxflow_exp.monitor import early_stop
from fluxflow_exp.preflight import parts
from fluxflow_exp.run import failures
from fluxflow_exp.trainers.base import Trainer
from fluxflow_exp.trainers.context import Length


def trainer_class(step: Step) -> type[Trainer]:
    found: type[Trainer] = locate(step.trainer["_target_"])
    return found


def trained_parts(step: Step) -> list[str]:
    """The parts that the step's players may change."""
    players = trainer_class(step).PLAYERS
    return [p for name in step.optimizers for p in players[name] if p not in step.freeze]


def needed_parts(step: Step) -> list[str]:
    """All parts that the step trains or uses; frozen ones among them."""
    trainer = trainer_class(step)
    played = [p for name in step.optimizers for p in trainer.PLAYERS[name]]
    return list(dict.fromkeys([*trainer.USES, *trainer.NEEDS, *played]))


def length(step: Step, data: DataSet, config: RunConfig, *, ranks: int = 1) -> Length:
    """The step's length in updates. UserError: the training set is smaller than a batch."""
    try:
        per_epoch = updates_per_epoch(data.train, step.batch_size)
    except ValueError as error:
        raise UserError(str(error)) from error
    updates = per_epoch * step.n_epochs
    if step.max_updates is not None:
        updates = min(updates, step.max_updates)
    kind = trainer_class(step).MICRO_BATCH
    share = step.batch_size // ranks
    chosen = getattr(config.hardware.micro_batch, kind)
    micro = share if chosen in (None, "auto") else min(chosen, share)
    return Length(updates, per_epoch, step.batch_size, micro)


def check_losses(config: RunConfig) -> None:
    """Build every step's losses once: a bad number or missing weights are said before the first step trains."""
    for name, step in config.stage.steps.items():
        for key, node in step.trainer.items():
            if isinstance(node, dict) and "_target_" in node:
                try:
                    instantiate(node)
                except ValueError as error:
                    raise UserError(f"stage.steps.{name}.trainer.{key}: {error}") from error


def cache_folder(config: RunConfig, name: str, data: DataSet, size: Length) -> tuple[Path | None, str]:
    """Where step `name` keeps what frozen parts say of its data, or None and why it does not ("": nothing to say).

    UserError: it cannot, and cache.mode=on asks for it.
    """
    mode, reason = config.cache.mode, data.train.varies
    if mode == "off" or not trainer_class(config.stage.steps[name]).CACHES:
        return None, ""
    if mode == "on" and reason:
        raise UserError(
            f"cache.mode=on: step {name} cannot train on cached latents: {reason}. Change that, or set cache.mode=auto"
        )
    if mode == "auto" and not reason and size.updates < size.updates_per_epoch:
        reason = "the step ends before it has used every image once (cache.mode=on: cached all the same)"
    if reason:
        return None, reason
    return Path(config.cache.path or Path(config.output_root) / "cache").expanduser(), ""


def describe(
    config: RunConfig, lengths: dict[str, Length], data: dict[str, DataSet], machine: Machine, ranks: int = 1
) -> str:
    """The plan, for the first lines of a run and for validate=true."""
    counts = {part: parts.count(part, config.model) for part in _all_parts(config)}
    sets = {id(d): d for d in data.values()}
    labels = {id(data[name]): _data_label(config, step) for name, step in config.stage.steps.items()}
    lines = [
        f"PIPELINE EXECUTION PLAN: {config.name} (stage={config.stage.name}, seed={config.seed})",
        f"  machine: {machine.describe()}",
        f"  model:   {config.model.name}, activation {config.model.activation}: "
        + ", ".join(f"{part} {_short(count)}" for part, count in counts.items()),
        *(
            line
            for key, d in sets.items()
            for line in (f"  data:    {labels[key]}{': ' if labels[key] else ''}{_data_line(d)}", *_notes(d))
        ),
    ]
    for index, (name, step) in enumerate(config.stage.steps.items(), start=1):
        lines += _step_lines(index, name, step, lengths[name], ranks)
        if len(sets) > 1:
            lines.append(f"    data: {_data_label(config, step)}")
        lines += _left_out(data[name], step.batch_size)
        lines += _cache_line(*cache_folder(config, name, data[name], lengths[name]))
    total = sum(each.updates for each in lengths.values())
    return "\n".join([*lines, f"  Total: {total} updates"])


def _step_lines(index: int, name: str, step: Step, size: Length, ranks: int) -> list[str]:
    losses = [k for k, v in step.trainer.items() if isinstance(v, dict) and "_target_" in v and k != "objective"]
    optimizers = ", ".join(
        f"{player} {_name(node)} lr {node['lr']:g} ({_name(step.schedulers[player])})"
        for player, node in step.optimizers.items()
    )
    accumulation = size.batch_size // ranks // size.micro_batch
    split = (
        f"{ranks} ranks x {accumulation} x {size.micro_batch}" if ranks > 1 else f"{accumulation} x {size.micro_batch}"
    )
    whole = step.n_epochs * size.updates_per_epoch
    cut = "" if size.updates == whole else f", of which max_updates leaves {size.updates}"
    still = [p for p in needed_parts(step) if p not in trained_parts(step)]
    guidance = f", caption dropout {step.cfg_dropout_prob:g}" if step.cfg_dropout_prob else ""
    return [
        f"  Step {index}: {name}: {step.n_epochs} epochs x {size.updates_per_epoch} = {whole} updates "
        f"of {size.batch_size} images ({split}){cut}",
        f"    trains: {', '.join(trained_parts(step))}" + (f"; uses frozen: {', '.join(still)}" if still else ""),
        f"    losses: {', '.join(losses) or 'flow'}{guidance}; EMA {step.ema.decay if step.ema else 'off'}",
        *_manner(step),
        f"    optimizers: {optimizers}",
        *([f"    ends early when {early_stop.describe(step.transition_on)}"] if step.transition_on.metric else []),
    ]


def _cache_line(folder: Path | None, reason: str) -> list[str]:
    if folder is not None:
        return [f"    latents: encoded once, kept in {folder}"]
    return [f"    latents: encoded at every update, since {reason}"] if reason else []


def _left_out(data: DataSet, batch_size: int) -> list[str]:
    """Samples of shapes that are too rare for a batch."""
    if isinstance(data.train, Stream):
        return []
    rare = sum(len(members) for members in groups_of(data.train).values() if len(members) < batch_size)
    if not rare:
        return []
    return [
        f"    note: {rare} of {len(data.train)} samples have a shape that fewer than {batch_size} share, and are never "
        "trained on: lower batch_size or data.buckets"
    ]


def _data_label(config: RunConfig, step: Step) -> str:
    """The names of the data sets that a step trains on, and where they lie; empty for drawings."""
    named = config.data.get("datasets")
    if named is None or (isinstance(step.data, dict) and "_target_" in step.data):
        return _place(config.data if step.data is None else step.data)
    picked = config.data["default"] if step.data is None else step.data
    names = [picked] if isinstance(picked, str) else [f"{name} x {weight:g}" for name, weight in picked.items()]
    return ", ".join(names) + (f" ({_place(named[picked])})" if isinstance(picked, str) else "")


def _place(node: dict[str, Any]) -> str:
    found = node.get("data_path", node.get("urls", ""))
    return found if isinstance(found, str) else ", ".join(found)


def _manner(step: Step) -> list[str]:
    """What a step's losses are of: the objective of a flow, the conditioning of an autoencoder."""
    objective, spade = step.trainer.get("objective"), step.trainer.get("spade", "never")
    times = f", times {objective['time_distribution']}" if objective and "time_distribution" in objective else ""
    return [
        *([f"    objective: {_name(objective)}{times}"] if objective else []),
        *([f"    SPADE: {spade}"] if spade != "never" else []),
    ]


def _data_line(data: DataSet) -> str:
    return (
        f"{type(data).__name__}, {len(data.train)} training and {len(data.validation)} held-out images, "
        f"{data.img_size} px"
    )


def _notes(data: DataSet) -> list[str]:
    return [f"    note: {note}" for note in notes_of(data)]


def _all_parts(config: RunConfig) -> list[str]:
    return list(dict.fromkeys(p for step in config.stage.steps.values() for p in needed_parts(step)))


def _name(node: dict[str, Any]) -> str:
    return str(node["_target_"].rpartition(".")[2])


def _short(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e6 else f"{count / 1e3:.0f} k"


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
    try:
        found = _predict(values_of(options.override, config_dir=options.config_dir))
    except UserError as error:
        fail(list(error.args))
        return 2
    if options.json:
        files.write_json(options.json, found)
    return 1 if found["total"]["fits"] is False else 0


def _predict(values: dict[str, Any]) -> dict[str, Any]:
    """Say what each step will need, as soon as it is known. UserError: the configuration is wrong."""
    from fluxflow_exp.data import build
    from fluxflow_exp.plan import forecast
    from fluxflow_exp.preflight import check  # a run, which prints a plan too, does not need them

    wrong = check.problems(values, here=False)
    if wrong:
        raise UserError(*wrong)
    config = typed(values)
    data, hardware = build.build_data(config), config.hardware
    ranks = hardware.devices * hardware.slurm.nodes
    cards = f"{ranks} x {hardware.name}" if ranks > 1 else hardware.name
    print(f"PREDICTION: {config.name} (stage={config.stage.name}, model={config.model.name}, hardware={cards})")
    for each in {id(each): each for each in data.values()}.values():
        print(f"  data: {_data_line(each)}; {hardware.precision} on the card")
    for note in _reservations(config):
        print(f"  note: {note}")
    found = []
    for index, (name, step) in enumerate(config.stage.steps.items(), start=1):
        size = length(step, data[name], config, ranks=ranks)
        print("\n".join(_step_lines(index, name, step, size, ranks)[:1]), flush=True)
        measured = _seconds_here(values, name) if _on_cpu(config) else None
        found.append(forecast.forecast(config, name, size, data[name], ranks=ranks, measured=measured))
        print("\n".join(forecast.lines(found[-1], hardware)), flush=True)
    total = forecast.total(found)
    print(forecast.total_line(total))
    return {"name": config.name, "hardware": hardware.name, "steps": [asdict(each) for each in found], "total": total}


def _on_cpu(config: RunConfig) -> bool:
    """Whether the run would train on this machine's CPU, so that an update can be timed."""
    device = config.hardware.device
    return device == "cpu" or (device == "auto" and not torch.cuda.is_available())


def _seconds_here(values: dict[str, Any], name: str) -> float:
    """Seconds of an update of step `name` with all of its players: the median of three."""
    from fluxflow_exp.benchmark import command as benchmark  # which needs this module

    with benchmark.warm({**values, "tracking": {**values["tracking"], "mode": "off"}}, name) as times:
        return statistics.median(times(3))


def _reservations(config: RunConfig) -> list[str]:
    """Where the prediction cannot be what a run will meet."""
    hardware, found = config.hardware, []
    if _on_cpu(config):
        found.append("memory is that of a GPU: a CPU takes more, and nothing of it is predicted")
    if config.model.activation == "bezier" and find_spec("triton") is None:
        found.append("without the package triton a Bezier activation is predicted as it is on a CPU: with more memory")
    if hardware.parallel == "fsdp":
        found.append("hardware.parallel=fsdp is predicted as ddp: with more memory")
    return found
