"""A step's trainer, built from the configuration: its parts with their weights, its players' optimizers, its data."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fluxflow_exp.config.autoencoder import begins_trained
from fluxflow_exp.config.compose import instantiate
from fluxflow_exp.config.schema import RunConfig, Step
from fluxflow_exp.console import Console
from fluxflow_exp.data.protocols import DataSet, Stream
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import cores, sharding
from fluxflow_exp.machine.hardware import Machine
from fluxflow_exp.machine.preemption import StopRequest
from fluxflow_exp.machine.ranks import Ranks
from fluxflow_exp.models import weights
from fluxflow_exp.reference import standing
from fluxflow_exp.run.checkpoint import CheckpointStore
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.identity import identity_digest
from fluxflow_exp.run.live_report import LiveReport
from fluxflow_exp.run.metric_log import row_every
from fluxflow_exp.run.save_interval import SaveClock
from fluxflow_exp.run.wandb import WandbRun
from fluxflow_exp.seeding import seed_initialisation
from fluxflow_exp.step_length import Length
from fluxflow_exp.step_plan import (
    cache_folder,
    caches_folder,
    is_pretrained,
    needed_parts,
    trained_parts,
    trainer_class,
)
from fluxflow_exp.trainers import intervals
from fluxflow_exp.trainers.base import Trainer
from fluxflow_exp.trainers.context import RunContext, StepContext
from fluxflow_exp.trainers.early_batches import EarlyBatches, arguments, reading_early


def build_trainer(
    config: RunConfig, name: str, run: RunContext, *, length: Length, data: DataSet, earlier: Sequence[str] = ()
) -> Trainer:
    """The trainer of step `name` at its first update, its parts filled from what the steps `earlier` have published."""
    context = step_context(config, name, run, length=length, data=data, earlier=earlier)
    trainer: Trainer = instantiate(config.stage.steps[name].trainer, setup=context)
    return trainer


def run_context(
    config: RunConfig,
    folder: RunFolder,
    machine: Machine,
    *,
    ranks: Ranks | None = None,
    console: Console | None = None,
    stop: StopRequest | None = None,
    wandb: WandbRun | None = None,
    live: LiveReport | None = None,
) -> RunContext:
    """The live objects that the steps of a run share; by default those of one process alone, which says nothing."""
    ranks = ranks or Ranks()
    # What is timed or rehearsed in a folder that is no run's saves nothing that could be another's.
    mine = identity_digest(folder.frozen()) if folder.config.exists() else None
    record = folder.read_record() if ranks.first and folder.exists() else {}
    return RunContext(
        folder=folder,
        machine=machine,
        ranks=ranks,
        console=console or Console(quiet=True),
        stop=stop or StopRequest(),
        wandb=wandb,
        live_report=live or LiveReport(folder.path),
        checkpoints=CheckpointStore(folder.checkpoints, keep=config.checkpoint.keep, run=mine),
        clock=SaveClock(
            every_minutes=config.checkpoint.every_minutes,
            every_updates=config.checkpoint.every_updates,
            kills=record.get("kills", 0),
            lived=record.get("wall_seconds", 0.0),
        ),
    )


def step_context(
    config: RunConfig, name: str, run: RunContext, *, length: Length, data: DataSet, earlier: Sequence[str] = ()
) -> StepContext:
    """All that the trainer of step `name` is given. ValueError: weights that it starts from are not there."""
    config = intervals.begun_with(config, run.folder)
    step = config.stage.steps[name]
    given = weights.find_parts(Path(step.init_from).expanduser()) if step.init_from else {}
    return StepContext(
        **vars(run),
        name=name,
        index=list(config.stage.steps).index(name) + 1,
        steps=len(config.stage.steps),
        seed=config.seed,
        length=length,
        parts=_build_parts(config, name, run, earlier, given),
        given=_given(config, step, given, run, earlier),
        optimizers={player: instantiate(node) for player, node in step.optimizers.items()},
        schedulers={player: instantiate(node) for player, node in step.schedulers.items()},
        freeze=step.freeze,
        unfreeze=step.unfreeze,
        transition_on=step.transition_on,
        ema_decay=step.ema.decay if step.ema else None,
        gradient_clip=step.gradient_clip or None,  # 0, too, is off
        cfg_dropout_prob=step.cfg_dropout_prob,
        data=data,
        num_workers=_workers(config, data),
        cache=cache_folder(config, name, data, length)[0],
        caching=replace(config.cache, path=str(caches_folder(config))),
        log_every=row_every(config.log_every, length.updates),
        samples=config.samples,
        evaluation=intervals.evaluation(config, step),
        health=config.health,
        standing=_standing(name, run),
    )


def _standing(name: str, run: RunContext) -> standing.Standing | None:
    """The reference runs that a step of a run is told of; what is no run's folder is told of none."""
    if not run.ranks.first or not run.folder.config.exists() or not run.folder.exists():
        return None
    try:
        return standing.of(run.folder.frozen(), run.folder.read_record(), name)
    except UserError as error:  # of a file that was there when the run began: no reason to end it
        run.console.say(f"Step {name} is compared with no reference: {error}")
        return None


@contextmanager
def read_early(
    config: RunConfig, name: str, run: RunContext, *, length: Length, data: DataSet
) -> Iterator[EarlyBatches | None]:
    """The batches that step `name` goes on with, read from here on; None: it begins, or trains on what is cached."""
    reached = run.ranks.from_first(run.checkpoints.reached(name) if run.ranks.first else None)
    if reached is None or reached >= length.updates or cache_folder(config, name, data, length)[0]:
        yield None
        return
    how = arguments(
        first=reached,
        last=length.updates,
        seed=config.seed,
        length=length,
        num_workers=_workers(config, data),
        machine=run.machine,
        ranks=run.ranks,
        img_size=data.img_size,
    )
    with reading_early(data.train, how) as early:
        yield early


def _workers(config: RunConfig, data: DataSet) -> int:
    """Data workers of this rank. Which samples a stream gives hangs on how many read it: that number stays."""
    asked = config.hardware.num_workers
    return asked if isinstance(data.train, Stream) else cores.workers(asked)


def _given(config: RunConfig, step: Step, given: dict[str, Path], run: RunContext, earlier: Sequence[str]) -> list[str]:
    """Parts of a step that neither it nor an earlier one has made."""
    made = weights.find_parts(run.folder.path, steps=list(earlier)) if earlier else {}
    begun = [p for p in needed_parts(step) if begins_trained(getattr(config.model, p)) and p not in made]
    return [part for part in needed_parts(step) if part in given or part in begun]


def _build_parts(
    config: RunConfig, name: str, run: RunContext, earlier: Sequence[str], given: dict[str, Path]
) -> dict[str, Any]:
    """Fresh parts, filled from an earlier step or `init_from`: raw weights to train on, averaged ones to use."""
    step = config.stage.steps[name]
    trained = trained_parts(step, config.model)
    made = weights.find_parts(run.folder.path, steps=list(earlier)) if earlier else {}
    parts: dict[str, Any] = {}
    for part in needed_parts(step):
        seed_initialisation(config.seed, part)
        parts[part] = instantiate(getattr(config.model, part))
        holder = given.get(part) or made.get(part)
        if holder is None and begins_trained(getattr(config.model, part)):
            run.console.say(f"Step {name}: {part} from {getattr(config.model, part)['weights_path']}")
            continue
        if holder is None:
            if earlier and not run.checkpoints.newest(name):  # a step that continues has said it before
                fresh = "fresh weights (no earlier step made it)"
                start = "its pretrained weights" if is_pretrained(getattr(config.model, part)) else fresh
                run.console.say(f"Step {name}: {part} starts from {start}")
            continue
        raw = holder.with_name(holder.name.replace(".safetensors", ".raw.safetensors"))
        source = raw if part in trained and raw.is_file() and not trainer_class(step).FROM_PUBLISHED else holder
        parts[part].load_state_dict(weights.read_part(source, part))
        run.console.say(f"Step {name}: {part} from {source}")
    for module in parts.values():
        run.machine.place(module)
        if config.hardware.activation_checkpointing and hasattr(module, "checkpointing"):
            module.checkpointing = True
    if config.hardware.parallel == "fsdp" and run.ranks.count > 1 and "flow_processor" in trained:
        flow = parts["flow_processor"]
        sharding.shard(flow, run.ranks, run.machine.device, blocks=flow.blocks)
    return parts
