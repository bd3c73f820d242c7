"""A step from its newest checkpoint, or its first update, to its end: the loop, and what a checkpoint holds.

Nothing random is in a checkpoint: draws are functions of the update.
"""

from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from fluxflow_exp.data.loader import Batch, load_batches
from fluxflow_exp.data.protocols import Source, Stored, Stream
from fluxflow_exp.errors import UserError
from fluxflow_exp.losses.terms import Loss
from fluxflow_exp.machine import clock
from fluxflow_exp.machine.preemption import Interrupted
from fluxflow_exp.machine.ranks import Ranks
from fluxflow_exp.models import lora
from fluxflow_exp.run import checkpoint, mirror, tally
from fluxflow_exp.run.metric_log import Row
from fluxflow_exp.trainers.best import Best
from fluxflow_exp.trainers.context import StepContext
from fluxflow_exp.trainers.early_batches import arguments
from fluxflow_exp.trainers.validation import Validated


class Trainer(Validated):
    """One class trains every step; its subclasses say what is computed."""

    def __init__(self, setup: StepContext, losses: dict[str, Loss]) -> None:
        super().__init__(setup, losses)
        self.source: Source | Stored | Stream = setup.data.train

    def open_source(self) -> None:
        """Called when a step begins and when it continues, before a batch is read."""

    def prepare(self) -> None:
        """Called before a step's very first update."""

    def facts(self) -> dict[str, Any] | None:
        return None  # what a generator must know beside the weights; nothing for parts that do not generate

    def adapter_facts(self) -> lora.Facts:
        """What is published with an adapter, by a trainer that trains one."""
        raise NotImplementedError

    def fit(self) -> dict[str, float]:
        """Train from wherever the last checkpoint stands to the end of the step; returns the last held-out metrics."""
        self.begin()
        begun = self.update_index
        self.setup.stop.updating = True
        try:
            signum = self._run()
        except Interrupted:  # in the wait for a batch
            if self.update_index > begun:
                self._save(final=False)
            raise
        finally:
            self.setup.stop.updating = False
        if signum:
            self.ranks.meet()  # no rank leaves before the first has saved
            raise Interrupted(signum)
        return self.held_out

    def begin(self) -> None:
        """Continue from the step's newest checkpoint, or make ready for its first update."""
        setup, ranks = self.setup, self.ranks
        self.open_source()
        setup.start_up.ends("caches")
        self.accumulation.recall()
        newest = ranks.from_first(setup.checkpoints.newest(setup.name) if ranks.first else None)
        if newest is None:
            self.accumulation.within_memory(self.prepare, update=1)
        else:
            self._load(newest)
            setup.console.say(
                f"Step {setup.name}: continuing after update {self.update_index} of {self.length.updates}"
            )
        if ranks.first:
            tally.rewind(setup.folder, setup.name, self.update_index)
            self._record_lost(self.rows.rewind(self.update_index))
        self.catch_up()
        setup.clock.saved()
        self.time_breakdown.begin()
        self._logged, self._first = (self.update_index, self.seconds, self.time_breakdown.beside), self.update_index + 1
        self._entered = self._logged
        self._began = clock.now() - self.seconds
        setup.folder.report_bad(setup.data.bad, setup.data, setup.console.say)
        setup.start_up.ends("checkpoint")

    def advance(self, batch: Batch) -> None:
        """One update, its row, and what is due to be looked at. NonFiniteError."""
        self.update(batch)
        self.update_index += 1
        if self.prompt or self._row_is_due() or self.update_index == self._first:
            self.settle()
        self.seconds = clock.now() - self._began
        if self.early_stop:
            self.end(self.early_stop.after_update(self.latest, self.update_index, skipped=self.skipped))
        self._log()
        if self.update_index == self._first:
            self._has_begun()
        self.look()

    def batches(self, first: int, last: int, *, alone: bool = False) -> Generator[Batch]:
        """This rank's shares of the training batches of updates [first, last); `alone`: whole batches.

        Whoever does not read to the end closes it. Interrupted: a signal came in the wait for a batch.
        """
        ranks = Ranks() if alone else self.ranks
        setup = self.setup
        how = arguments(
            first=first,
            last=last,
            seed=setup.seed,
            length=self.length,
            num_workers=setup.num_workers,
            machine=self.machine,
            ranks=ranks,
            img_size=setup.data.img_size,
        )
        early = setup.early.take(self.source, how) if setup.early else None
        with closing(early or load_batches(self.source, **how)) as found:
            yield from self.setup.stop.while_idle(found)

    def state_dict(self) -> dict[str, Any]:
        """Progress, players and what spans updates; plain values and tensors."""
        return {
            "update": self.update_index,
            "seconds": self.seconds,
            "window": self.window.sums,
            "held_out": self.held_out,
            "best": self.best._asdict() if self.best else None,
            "watch": self.early_stop.state_dict() if self.early_stop else None,
            "ended_by": self.ended_by,
            "saves": self.saves,
            "owes_pictures": self.owes_pictures,
            "readers": _readers(self.setup),
            "players": {name: player.state_dict() for name, player in self.players.items()},
            "scalers": {name: scaler.state_dict() for name, scaler in self.scalers.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken. UserError: it lies behind the step's end, or in other readers' stream."""
        now = _readers(self.setup)
        if state["readers"] != now and state["update"] % self.length.updates_per_epoch:
            then = "hardware.devices={}, hardware.num_workers={}"
            raise UserError(
                f"within an epoch, streamed shards must be read by as many ranks and workers as before: "
                f"set {then.format(*state['readers'])} (now {then.format(*now or (1, 0))})"
            )
        if state["update"] > self.length.updates:
            raise UserError(
                f"step {self.setup.name} stands at update {state['update']}, and would now end after "
                f"{self.length.updates}: there are fewer samples than when it began, or fewer epochs were asked for"
            )
        self.update_index, self.seconds = state["update"], state["seconds"]
        self.window.sums, self.held_out = state["window"], state["held_out"]
        # Checkpoints of earlier versions have none of the next three.
        self.best = Best.restored(state.get("best"), keep=self.ranks.first)
        self.saves, self.owes_pictures = state.get("saves", 0), state.get("owes_pictures", False)
        if self.early_stop:
            self.early_stop.load_state_dict(state["watch"])
        self.end(state["ended_by"])
        for name, player in self.players.items():
            player.load_state_dict(state["players"][name])
            self.scalers[name].load_state_dict(state["scalers"][name])

    def _run(self) -> int:
        """Update and save until the step or a signal ends it; that signal, or 0. Interrupted: between updates."""
        with closing(self.batches(self.update_index, self.length.updates)) as batches:
            for batch in self.time_breakdown.waiting(batches):
                self.setup.start_up.ends("first batch")
                self.advance(batch)
                signum, due = self._agree(batch)
                if self.finished or due:
                    self.count_save()
                if self.finished or signum or due:
                    self._save(final=self.finished)
                    if not signum:  # a machine that is wanted back draws no pictures; they come when the run continues
                        self.draw_owed()
                if self.finished or signum:
                    return signum
        return 0

    def _has_begun(self) -> None:
        """The first update of this process is done: tell how long that took, and keep what was compiled for it."""
        setup = self.setup
        if not setup.start_up.over:
            setup.start_up.ends_with_update()
            if self.ranks.first and setup.folder.exists():
                setup.folder.record_first_update(setup.start_up.facts())
                setup.console.say(setup.start_up.describe())
        with self.time_breakdown.during("saves"):
            self.setup.keep_code(self.setup.name)

    def _agree(self, batch: Batch) -> tuple[int, bool]:
        """The signal that asked a rank to stop (0: none), and whether a save is due; the same on every rank."""
        setup, ranks = self.setup, self.ranks
        due = ranks.first and setup.clock.due(self.update_index)
        mine = [setup.stop.signum or 0, int(due), len(batch.bad), self.accumulation.micro_batches()]
        signum, due_somewhere, bad, micro_batches = ranks.largest(mine)
        self.accumulation.agree(micro_batches, update=self.update_index)
        if bad:
            setup.folder.report_bad(ranks.gather(batch.bad), setup.data, setup.console.say)
        return signum, bool(due_somewhere)

    def _save(self, *, final: bool) -> None:
        """Write a checkpoint, settled, and refresh what follows one: record, mirror, graphs."""
        setup, ranks = self.setup, self.ranks
        self.settle()
        started = clock.now()
        with self.time_breakdown.during("saves"):
            self.setup.keep_code(self.setup.name)
            saved = self.state_dict() if self.looks else {}
            if ranks.first:
                self.rows.sync()
                setup.checkpoints.save(saved, index=setup.index, step=setup.name, update=self.update_index, final=final)
                tally.keep(setup.folder, setup.name, self.update_index)
                mirror.follow(setup.folder, setup.console)
        if ranks.first:
            setup.folder.count_time(spent=self.time_breakdown.take())
            if not final:  # after a step's last save the pipeline sees to them
                setup.live_report.refresh()
        goes_on = not (final or setup.stop.signum)
        said = setup.clock.saved(clock.now() - started, goes_on=goes_on)
        if said:
            setup.console.say(said)

    def _load(self, path: Path) -> None:
        """UserError: the checkpoint holds something else than a state of this trainer."""
        device = self.machine.device
        apart = self.sharded and device.type == "cuda"  # a card may not hold whole what is spread
        saved = self.setup.checkpoints.load(path, map_location="cpu" if apart else device, mapped=apart)
        try:
            self.load_state_dict(saved)
        except (UserError, torch.OutOfMemoryError):
            raise
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:  # of torch's loading, too
            why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise checkpoint.not_ours(path, f"it holds no state of step {self.setup.name} ({why})") from error

    def _record_lost(self, dropped: list[Row]) -> None:
        """Rows that an earlier process wrote after the checkpoint tell how much is done again, up to its last row."""
        if dropped:
            last = max(row["extras"].get("seconds", 0.0) for row in dropped)
            updates = max(row["global_step"] for row in dropped) - self.update_index
            self.setup.folder.record_lost(max(last - self.seconds, 0.0), updates)

    def _row_is_due(self) -> bool:
        return self.update_index % self.setup.log_every == 0 or self.finished

    def _log(self) -> None:
        setup, update, metrics = self.setup, self.update_index, self.latest
        setup.console.advance(self.length, update)
        if not self._row_is_due() and update != self._first:  # the first is shown at once: a row may be minutes away
            return
        now = (update, self.seconds, self.time_breakdown.beside)
        updates, seconds, beside = (new - old for new, old in zip(now, self._logged, strict=True))
        per_batch = max(seconds - beside, 0.0) / max(updates, 1)
        beside_each = (now[2] - self._entered[2]) / max(update - self._entered[0], 1)  # over all: it comes in lumps
        left = (self.length.updates - update) * (per_batch + beside_each)
        if self._row_is_due():
            self.settle()  # the step may have ended just now
            metrics = self.window.take() | self.scheduled()
            self._logged = now
            rates = {name: player.rate() for name, player in self.players.items()}
            self.write_row("train", metrics, rates, {"seconds": self.seconds, "batch_time": per_batch})
        setup.console.progress(self.length, update, metrics, self.seconds, per_batch, left=left)


def _readers(setup: StepContext) -> list[int] | None:
    """Ranks, and workers of each, that read a stream; None for data with an index, which does not depend on them."""
    return [setup.ranks.count, max(setup.num_workers, 1)] if isinstance(setup.data.train, Stream) else None
