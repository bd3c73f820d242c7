"""The report on a number that is not finite: term, module, update, samples, and the command that repeats it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from fluxflow_exp import files
from fluxflow_exp.errors import UserError
from fluxflow_exp.monitor.finite import NonFiniteError
from fluxflow_exp.monitor.module_hooks import NonFiniteHooks

if TYPE_CHECKING:
    from fluxflow_exp.trainers.base import Trainer


def explain(trainer: Trainer, error: NonFiniteError) -> UserError:
    """Find the module by doing the passes again, write `non_finite.json`, and say everything in one error.

    The trainer cannot go on afterwards.
    """
    folder, place = trainer.setup.folder, error.place
    found = next(iter(trainer.ranks.gather(_module(trainer, error))), None)
    begins = "No module gives it when the update is done again" if found is None else f"It begins in {found[0]}"
    direction = "" if found is None else f" ({found[1]} pass)"
    message = (
        f"{error}.\n  {begins}{direction}. To repeat it: python -m fluxflow_exp.replay {folder.path} "
        f"--step {place.step} --update {place.update}"
    )
    if trainer.ranks.first:
        record = {"step": place.step, "update": place.update, "term": error.term, "module": found and found[0]}
        record |= {"ids": error.ids, "player": error.player, "message": message}
        with suppress(OSError):  # the error that ends the run is the one that is told
            files.write_json(folder.non_finite, record)
    return UserError(message)


def _module(trainer: Trainer, error: NonFiniteError) -> list[tuple[str, str]]:
    """The module and the direction of its pass, if this rank has it."""
    place = error.place
    trainer.update_index = place.update - 1
    trainer.accumulation.launch()
    for player in trainer.players.values():
        player.optimizer.zero_grad(set_to_none=True)
    (batch,) = trainer.batches(place.update - 1, place.update)
    with torch.compiler.set_stance("force_eager"), NonFiniteHooks(trainer.setup.parts) as hooks:
        images = trainer.inputs(batch)
        trainer.begin_update(batch)
        for phase in trainer.phases():
            with phase.training():
                trainer.accumulation.gradients(phase, images, batch.captions, update=place.update, exchanged=False)
            if error.player in [player.name for player in phase.players]:
                break
    origin = hooks.origin(error)
    return [(origin[1], hooks.seen[origin[0]].direction)] if origin else []
