"""The plan of a run, before it starts: what its steps are going to do, in facts and in words."""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from fluxflow_exp.config.compose import instantiate
from fluxflow_exp.config.published import locate
from fluxflow_exp.config.schema import Cache, Model, RunConfig, Step
from fluxflow_exp.data.loader import groups_of
from fluxflow_exp.data.protocols import DataSet, Drawing, Stream, notes_of
from fluxflow_exp.errors import UserError, counted, plural
from fluxflow_exp.machine import clock
from fluxflow_exp.machine.hardware import Machine
from fluxflow_exp.monitor import early_stop
from fluxflow_exp.preflight import parts, remarks
from fluxflow_exp.run import time_budget
from fluxflow_exp.step_length import Length
from fluxflow_exp.trainers import intervals
from fluxflow_exp.trainers.base import Trainer

PUBLISHED = {"best": "at its best point", "interpolated": "between its best point and its end"}  # publish.weights


def trainer_class(step: Step) -> type[Trainer]:
    found: type[Trainer] = locate(step.trainer["_target_"])
    return found


def trained_parts(step: Step, model: Model) -> list[str]:
    """The parts that the step's players may change; those that others have trained only where it unfreezes them."""
    players = trainer_class(step).PLAYERS
    played = [p for name in step.optimizers for p in players[name] if p not in step.freeze]
    return [p for p in played if p in step.unfreeze or not is_pretrained(getattr(model, p))]


def idle_players(step: Step, model: Model) -> list[str]:
    """Players that have an optimizer and whose parts all stay as others have trained them."""
    players = trainer_class(step).PLAYERS
    return [
        name
        for name in step.optimizers
        if all(part not in step.unfreeze and is_pretrained(getattr(model, part)) for part in players[name])
    ]


def is_pretrained(node: dict[str, Any]) -> bool:
    """Whether what `node` builds comes with weights that stay as they are unless a step unfreezes them."""
    return bool(getattr(locate(node["_target_"]), "pretrained", False))


def needed_parts(step: Step) -> list[str]:
    """All parts that the step trains or uses; frozen ones among them."""
    trainer = trainer_class(step)
    played = [p for name in step.optimizers for p in trainer.PLAYERS[name]]
    return list(dict.fromkeys([*trainer.USES, *trainer.NEEDS, *played]))


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
    mode, reason, trainer = config.cache.mode, data.train.varies, trainer_class(config.stage.steps[name])
    if mode == "off" or not trainer.CACHES:
        return None, ""
    once = size.updates_per_epoch
    if trainer.CACHES_DRAWN and isinstance(data.train, Drawing):
        pool = data.train.pool()
        reason, once = pool.varies, len(pool) // size.batch_size
    if mode == "on" and reason:
        raise UserError(
            f"cache.mode=on: step {name} cannot train on cached latents: {reason}. Change that, or set cache.mode=auto"
        )
    if mode == "auto" and not reason and size.updates < once and not time_budget.is_timed(config, name):
        reason = "the step ends before it has used every image once (cache.mode=on: cached all the same)"
    if reason:
        return None, reason
    return caches_folder(config), ""


def caches_folder(config: RunConfig) -> Path:
    """Where caches lie, whether a step uses one or not."""
    return Path(config.cache.path or Path(config.output_root) / "cache").expanduser()


def describe(
    config: RunConfig, lengths: dict[str, Length], data: dict[str, DataSet], machine: Machine, ranks: int, taken: float
) -> str:
    """The plan, for the first lines of a run, which has `taken` so many seconds so far, and for validate=true."""
    used = dict.fromkeys(part for step in config.stage.steps.values() for part in needed_parts(step))
    modules = {part: parts.built(part, config.model) for part in used}
    sets = {id(d): d for d in data.values()}
    labels = {id(data[name]): _data_label(config, step) for name, step in config.stage.steps.items()}
    lines = [
        f"PIPELINE EXECUTION PLAN: {config.name} (stage={config.stage.name}, seed={config.seed})",
        f"  machine: {machine.describe()}",
        f"  model:   {config.model.name}{_activation(config.model, modules)}: "
        + ", ".join(f"{part} {_short(_count(module))}" for part, module in modules.items()),
        *(
            line
            for key, d in sets.items()
            for line in (
                f"  data:    {labels[key]}{': ' if labels[key] else ''}{data_line(d)}",
                *(f"    note: {note}" for note in notes_of(d)),
            )
        ),
    ]
    for index, (name, step) in enumerate(config.stage.steps.items(), start=1):
        minutes = time_budget.asked(config, name)
        lines += step_lines(index, name, step, lengths[name], ranks, config.model, minutes=minutes)
        if len(sets) > 1:
            lines.append(f"    data: {_data_label(config, step)}")
        lines += _left_out(data[name], step.batch_size)
        if trainer_class(step).CACHES:  # it reads captions
            seen = lengths[name] if minutes is None else replace(lengths[name], updates=0)  # how often is not known
            told = remarks.remarks(step, seen, data[name], modules["text_encoder"])
            lines += [f"    note: {line}" for line in told]
        lines += intervals.lines(config, step, lengths[name]) if minutes is None else []
        lines += intervals.short_epochs(config, step, lengths[name])
        folder, reason = cache_folder(config, name, data[name], lengths[name])
        lines += _cache_line(folder, reason) + _teacher_lines(
            step, lengths[name], data[name], modules, kept=bool(folder), timed=minutes is not None
        )
        if trainer_class(step).CACHES and is_pretrained(config.model.text_encoder):
            trained = "text_encoder" in trained_parts(step, config.model)
            lines.append(_text_line(modules["text_encoder"], config.cache, trained=trained, cached=folder is not None))
    point = PUBLISHED.get(config.publish.weights)
    lines += [f"  Publishes: what step {list(config.stage.steps)[-1]} trains, {point}"] if point else []
    return "\n".join([*lines, f"  Total: {time_budget.total(config, lengths, ranks, taken=taken)}"])


def _activation(model: Model, parts: Iterable[str]) -> str:
    """The activation of `parts`, each for itself where they have several, or some that could have one have none."""
    found = model.activations(parts)
    whole = found.keys() >= {"compressor", "expander", "flow_processor"} & {*parts}
    if whole and len({*found.values()}) == 1:
        return f", activation {next(iter(found.values()))}"
    return "".join(f", activation of {part} {name}" for part, name in found.items())


# All that its lines are about.
def step_lines(
    index: int, name: str, step: Step, size: Length, ranks: int, model: Model, *, minutes: float | None = None
) -> list[str]:
    """What a step is going to do; `minutes`: what it was given in the place of epochs."""
    trained = trained_parts(step, model)
    named = [k for k, v in step.trainer.items() if isinstance(v, dict) and "_target_" in v]
    losses = ["flow" if k == "objective" else k for k in named if k != "augmentation"]
    optimizers = ", ".join(
        f"{player} {_name(node)} lr {node['lr']:g} ({_name(step.schedulers[player])})"
        for player, node in step.optimizers.items()
        if not set(trained).isdisjoint(trainer_class(step).PLAYERS[player])
    )
    accumulation = size.batch_size // ranks // size.micro_batch
    split = f" ({accumulation} micro-batches of {size.micro_batch})" if accumulation > 1 else ""
    if ranks > 1:
        split = f" ({ranks} ranks x {accumulation} x {size.micro_batch})"
    images = f"of {counted(size.batch_size, 'image')}{split}"
    whole = step.n_epochs * size.updates_per_epoch
    cut = "" if size.updates == whole else f", of which max_updates leaves {size.updates}"
    still = [p for p in needed_parts(step) if p not in trained]
    guidance = f", caption dropout {step.cfg_dropout_prob:g}" if step.cfg_dropout_prob else ""
    epochs = f"{step.n_epochs} epoch{'s' if step.n_epochs > 1 else ''}"
    long = f"{epochs} x {size.updates_per_epoch} = {whole} {plural(whole, 'update')} {images}{cut}"
    if minutes is not None:
        long = f"{clock.shown(60 * minutes)} with evaluation, pictures and saves; updates {images}, "
        long += f"{size.updates_per_epoch} an epoch; how many is measured first"
    return [
        f"  Step {index}: {name}: {long}",
        f"    trains: {_adapter(step)}{', '.join(trained)}" + (f"; uses frozen: {', '.join(still)}" if still else ""),
        f"    losses: {', '.join(losses) or 'none'}{guidance}; EMA {step.ema.decay if step.ema else 'off'}",
        *_manner(step),
        f"    optimizers: {optimizers}",
        *([f"    ends early when {early_stop.describe(step.transition_on)}"] if step.transition_on.metric else []),
    ]


def _adapter(step: Step) -> str:
    rank = step.trainer.get("lora_rank")
    return f"an adapter of rank {rank} of " if rank else ""


def _cache_line(folder: Path | None, reason: str) -> list[str]:
    if folder is not None:
        return [f"    latents: encoded once, kept in {folder}"]
    return [f"    latents: encoded at every update, since {reason}"] if reason else []


def _teacher_lines(
    step: Step, size: Length, data: DataSet, modules: dict[str, Any], *, kept: bool, timed: bool
) -> list[str]:
    """What a flow step is aligned with, and what its features take."""
    node = step.trainer.get("repa")
    if not node:
        return []
    repa = instantiate(node)
    teacher, last = repa.teacher(), sum(repa.is_on(update, size.updates) for update in range(size.updates))
    (block,) = repa.blocks(modules["flow_processor"])
    until = "" if last == size.updates else f", until update {last} of {size.updates}"
    if timed and until:
        until = f", for the first {repa.stop:.0%} of the updates"
    how = "seen at every update"
    if kept:
        side = data.img_size // (modules["compressor"].downscale * modules["flow_processor"].patch_size)
        # Of rectangles it is about that.
        need = len(data.train) * teacher.channels * min(side**2, math.prod(teacher.grid)) * 2
        how = f"seen once, its features kept in {need / 2**30:.2g} GiB"
    return [f"    teacher: {repa.folder}, {teacher.channels} channels, for block {block}{until}; each image {how}"]


def _text_line(text_encoder: nn.Module, asked: Cache, *, trained: bool, cached: bool) -> str:
    """What a pretrained text encoder takes of memory, and when it computes."""
    size = sum(p.numel() * p.element_size() for p in text_encoder.parameters()) / 2**30
    how = "captions are encoded at every update"
    if trained:
        how = "trained"
    elif cached:
        how = "captions are encoded once, and it leaves the GPU"
    elif asked.recent_gib is not None:
        how += f", recent ones kept in {asked.recent_gib:g} GiB of {asked.recent_on}"
    return f"    text: {size:.2f} GiB of text_encoder's weights; {how}"


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
    found = node.get("data_path") or node.get("dataset_name") or node.get("urls", "")
    return found if isinstance(found, str) else ", ".join(found)


def _manner(step: Step) -> list[str]:
    """The objective of a flow step, the conditioning of an autoencoder's."""
    objective, spade = step.trainer.get("objective"), step.trainer.get("spade", "never")
    times = f", times {objective['time_distribution']}" if objective and "time_distribution" in objective else ""
    return [
        *([f"    objective: {_name(objective)}{times}"] if objective else []),
        *([f"    SPADE: {spade}"] if spade != "never" else []),
        *([f"    augmentation: {instantiate(changed)}"] if (changed := step.trainer.get("augmentation")) else []),
    ]


def data_line(data: DataSet) -> str:
    return (
        f"{type(data).__name__}, {len(data.train)} training and {len(data.validation)} held-out images, "
        f"{data.img_size} px"
    )


def _name(node: dict[str, Any]) -> str:
    return str(node["_target_"].rpartition(".")[2])


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _short(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e6 else f"{count / 1e3:.0f} k"
