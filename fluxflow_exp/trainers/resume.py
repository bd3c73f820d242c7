"""A trainer's state in a checkpoint. Nothing random is in it: draws are functions of the update."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fluxflow_exp.data.protocols import Stream
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import clock
from fluxflow_exp.run import checkpoint, mirror, tally
from fluxflow_exp.run.metric_log import Row

if TYPE_CHECKING:
    from fluxflow_exp.trainers.base import Trainer
    from fluxflow_exp.trainers.context import StepContext


def state_of(trainer: Trainer) -> dict[str, Any]:
    """Progress, players and what spans updates; plain values and tensors."""
    return {
        "update": trainer.update_index,
        "seconds": trainer.seconds,
        "window": trainer.window.sums,
        "held_out": trainer.held_out,
        "watch": trainer.early_stop.state_dict() if trainer.early_stop else None,
        "ended_by": trainer.ended_by,
        "saves": trainer.validation.saves,
        "owes_pictures": trainer.validation.owed,
        "readers": readers(trainer.setup),
        "players": {name: player.state_dict() for name, player in trainer.players.items()},
        "scalers": {name: scaler.state_dict() for name, scaler in trainer.scalers.items()},
    }


def begin(trainer: Trainer) -> None:
    """Continue from the step's newest checkpoint, or prepare its first update."""
    setup, ranks = trainer.setup, trainer.ranks
    trainer.accumulation.recall()
    newest = ranks.from_first(setup.checkpoints.newest(setup.name) if ranks.first else None)
    if newest is None:
        trainer.accumulation.within_memory(trainer.prepare, update=trainer.update_index + 1)
    else:
        _load(trainer, newest)
        setup.console.say(
            f"Step {setup.name}: continuing after update {trainer.update_index} of {trainer.length.updates}"
        )
    if ranks.first:
        tally.rewind(setup.folder, setup.name, trainer.update_index)
        _record_lost(trainer, trainer.rows.rewind(trainer.update_index))
    trainer.validation.catch_up()
    setup.clock.saved()
    trainer.time_breakdown.begin()


def _load(trainer: Trainer, path: Path) -> None:
    """UserError: the checkpoint holds something else than a state of this trainer."""
    saved = trainer.setup.checkpoints.load(path, map_location=trainer.machine.device)
    try:
        trainer.load_state_dict(saved)
    except (UserError, torch.OutOfMemoryError):
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:  # of torch's own loading, too
        why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise checkpoint.not_ours(path, f"it holds no state of step {trainer.setup.name} ({why})") from error


def _record_lost(trainer: Trainer, dropped: list[Row]) -> None:
    """Rows that an earlier process wrote after the checkpoint tell how much is done again, up to its last row."""
    if dropped:
        last = max(row["extras"].get("seconds", 0.0) for row in dropped)
        updates = max(row["global_step"] for row in dropped) - trainer.update_index
        trainer.setup.folder.record_lost(max(last - trainer.seconds, 0.0), updates)


def save(trainer: Trainer, *, final: bool) -> None:
    """Write a checkpoint of a settled trainer, and refresh what follows one: record, mirror, graphs."""
    setup, ranks = trainer.setup, trainer.ranks
    trainer.settle()
    started = clock.now()
    with trainer.time_breakdown.during("saves"):
        saved = trainer.state_dict() if ranks.first or trainer.sharded else {}
        if ranks.first:
            trainer.rows.sync()
            setup.checkpoints.save(saved, index=setup.index, step=setup.name, update=trainer.update_index, final=final)
            tally.keep(setup.folder, setup.name, trainer.update_index)
            mirror.follow(setup.folder, setup.console)
    if ranks.first:
        setup.folder.count_time(spent=trainer.time_breakdown.take())
        if not final:  # after a step's last save the pipeline sees to them
            setup.live_report.refresh()
    said = setup.clock.saved(clock.now() - started)
    if said:
        setup.console.say(said)


def restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """Put a trainer where `state` was taken. UserError: it lies behind the step's end, or in other readers' stream."""
    now = readers(trainer.setup)
    if state["readers"] != now and state["update"] % trainer.length.updates_per_epoch:
        then = "hardware.devices={}, hardware.num_workers={}"
        raise UserError(
            f"within an epoch, streamed shards must be read by as many ranks and workers as before: "
            f"set {then.format(*state['readers'])} (now {then.format(*now or (1, 0))})"
        )
    if state["update"] > trainer.length.updates:
        raise UserError(
            f"step {trainer.setup.name} stands at update {state['update']}, and would now end after "
            f"{trainer.length.updates}: there are fewer samples than when it began, or fewer epochs were asked for"
        )
    trainer.update_index, trainer.seconds = state["update"], state["seconds"]
    trainer.window.sums, trainer.held_out = state["window"], state["held_out"]
    # Checkpoints of before saves were counted have neither.
    trainer.validation.saves, trainer.validation.owed = state.get("saves", 0), state.get("owes_pictures", False)
    if trainer.early_stop:
        trainer.early_stop.load_state_dict(state["watch"])
    trainer.end(state["ended_by"])
    for name, player in trainer.players.items():
        player.load_state_dict(state["players"][name])
        trainer.scalers[name].load_state_dict(state["scalers"][name])


def readers(setup: StepContext) -> list[int] | None:
    """Ranks, and workers of each, that read a stream; None for data with an index, which does not depend on them."""
    return [setup.ranks.count, max(setup.num_workers, 1)] if isinstance(setup.data.train, Stream) else None
