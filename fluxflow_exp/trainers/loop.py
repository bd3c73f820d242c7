"""The loop of a step: batches, updates, and the saves and stops between them."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from fluxflow_exp.data.loader import Batch
from fluxflow_exp.trainers import resume

if TYPE_CHECKING:
    from fluxflow_exp.trainers.base import Trainer


def run(trainer: Trainer) -> int:
    """Update and save until the step or a signal ends it; that signal, or 0. Interrupted: it came between updates."""
    with closing(trainer.batches(trainer.update_index, trainer.length.updates)) as batches:
        for batch in trainer.time_breakdown.waiting(batches):
            trainer.advance(batch)
            finished = trainer.update_index == trainer.length.updates
            signum, due = _agree(trainer, batch)
            if finished or due:
                trainer.validation.count_save()
            if finished or signum or due:
                resume.save(trainer, final=finished)
                if not signum:  # a machine that is wanted back draws no pictures; they come when the run continues
                    trainer.validation.after_save()
            if finished or signum:
                return signum
    return 0


def _agree(trainer: Trainer, batch: Batch) -> tuple[int, bool]:
    """The signal that asked a rank to stop (0: none), and whether a save is due; the same on every rank."""
    setup, ranks = trainer.setup, trainer.ranks
    due = ranks.first and setup.clock.due(trainer.update_index)
    mine = [setup.stop.signum or 0, int(due), len(batch.bad), trainer.accumulation.micro_batches()]
    signum, due_somewhere, bad, micro_batches = ranks.largest(mine)
    trainer.accumulation.agree(micro_batches, update=trainer.update_index)
    if bad:
        setup.folder.report_bad(ranks.gather(batch.bad), setup.data, setup.console.say)
    return signum, bool(due_somewhere)
