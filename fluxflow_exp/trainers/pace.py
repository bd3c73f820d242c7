"""How long what a step does takes here: measured by a trainer that is thrown away, in a folder that is no run's."""

import copy
import gc
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from itertools import cycle

import torch

from fluxflow_exp.config.compose import instantiate
from fluxflow_exp.config.schema import RunConfig
from fluxflow_exp.console import Console
from fluxflow_exp.data.loader import Batch
from fluxflow_exp.data.protocols import DataSet
from fluxflow_exp.machine import clock
from fluxflow_exp.machine.preemption import Interrupted
from fluxflow_exp.monitor.finite import NonFiniteError
from fluxflow_exp.run.checkpoint import CheckpointStore
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.live_report import draw_graphs
from fluxflow_exp.run.time_budget import Costs, Kind, most
from fluxflow_exp.step_length import Length
from fluxflow_exp.trainers import publish
from fluxflow_exp.trainers.base import Trainer
from fluxflow_exp.trainers.build import step_context
from fluxflow_exp.trainers.context import RunContext, StepContext

WARM_UP = 4  # updates of a kind, at least, before they are timed
TIMED = 4  # updates of a kind, at least
SHARE = 0.02  # of the time: what is spent on timing, and as much on warming up
READ = 8  # updates after which the host waits for the device
PLACES = 2000  # updates looked at for how often each kind occurs
ENDLESS = 2**40  # updates that there are batches for
SCRATCH = "tmp-pace"


def updates_within(
    config: RunConfig,
    name: str,
    run: RunContext,
    seconds_left: Callable[[], float],
    *,
    length: Length,
    data: DataSet,
    earlier: list[str],
    known: Costs | None = None,
) -> tuple[int, float, float]:
    """How many updates step `name` can take in what is left of its time; the same on all ranks.

    Beside it seconds of one, and of all that the step takes with one alone: building, evaluation, pictures, saves.

    `length` has the number of updates that the stage asks for without minutes. Nothing stays of what is trained here
    but caches. Of what is `known` of its costs, updates alone are timed. Interrupted: a signal came.
    """
    seconds = run.ranks.from_first(seconds_left() if run.ranks.first else 0.0)
    left = clock.shown(seconds) if seconds > 0 else "the time that is left, which is none"
    run.console.say(f"Step {name}: timing updates, to see how many of them fit into {left} …")
    whole = False
    while not whole:  # an opponent that begins late may not have played yet
        with _scratch(run) as folder:
            began = clock.now()
            quiet = replace(run, console=Console(quiet=True))  # the trainer that stays says the same
            context = step_context(config, name, quiet, length=length, data=data, earlier=earlier)
            context.console = run.console
            updates, each, least, whole = _Pace(_apart(context, folder), config, seconds, began, known).count(
                seconds_left
            )
        length = replace(length, updates=updates)
        del context
        _forget(run)
        whole = whole or updates < 1
    return updates, each, least


def ahead(
    config: RunConfig, name: str, run: RunContext, seconds: float, *, length: Length, data: DataSet
) -> tuple[Costs, float]:
    """What step `name`, which has so many seconds, costs, and the fewest that it takes, caches aside.

    Its parts are as they are before earlier steps have trained them. One that reads a cache later is not updated: to
    encode its batches may take more memory than the run ever does. Interrupted: a signal came.
    """
    with _scratch(run) as folder:
        began = clock.now()
        quiet = replace(run, console=Console(quiet=True))
        context = step_context(config, name, quiet, length=length, data=data)
        updates, context.cache = context.cache is None, None
        found = _Pace(_apart(context, folder), config, seconds, began).ahead(updates=updates)
    del context
    _forget(run)
    return found


def _forget(run: RunContext) -> None:
    """Give back the memory of a trainer that is gone."""
    gc.collect()
    if run.machine.device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def _scratch(run: RunContext) -> Iterator[RunFolder]:
    """A folder on the run's disk, of which nothing stays; a process that was killed here may have left one."""
    path = run.folder.path / SCRATCH
    folder = RunFolder(path, first=run.ranks.first)
    if run.ranks.first:
        shutil.rmtree(path, ignore_errors=True)
        folder.create({}, {})
    run.ranks.meet()
    try:
        yield folder
    finally:
        if run.ranks.first:
            shutil.rmtree(path, ignore_errors=True)


def _apart(context: StepContext, folder: RunFolder) -> StepContext:
    """`context` of which nothing reaches the run's folder."""
    return replace(context, folder=folder, checkpoints=CheckpointStore(folder.checkpoints, keep=1), wandb=None)


class _Pace:
    """A trainer, to be timed."""

    def __init__(
        self, context: StepContext, config: RunConfig, seconds: float, began: float, known: Costs | None = None
    ) -> None:
        self.known = known
        self.config, self.context, self.ranks, self.seconds = config, context, context.ranks, seconds
        self.planned = context.length
        node = config.stage.steps[context.name].trainer
        self.trainer: Trainer = instantiate(node, setup=context)
        self.trainer.early_stop = None  # it would end the step
        self.building = clock.now() - began

    def count(self, seconds_left: Callable[[], float]) -> tuple[int, float, float, bool]:
        """Updates that fit when the trainer that makes them has been built; seconds; whether all kinds were timed."""
        trainer, context = self.trainer, self.context
        trainer.open_source()
        preparing = self._timed(lambda: trainer.accumulation.within_memory(trainer.prepare, update=1))
        trainer.setup.console = Console(quiet=True)
        costs = self._costs(self.seconds)
        saves = copy.copy(context.clock)
        saves.cost = costs.save

        def cost(updates: int) -> float:
            length = replace(self.planned, updates=updates)
            each = costs.of_update(self._shares(updates))
            return costs.of_step(each, length, context.samples, context.evaluation, saves)

        found = (0, 0.0, 0.0, True)
        if self.ranks.first:
            before = self.building + preparing
            updates = most(seconds_left() - before, cost)
            shares = self._shares(max(updates, 1))
            found = (updates, costs.of_update(shares), before + cost(1), set(shares) <= set(costs.update))
        return self.ranks.from_first(found)

    def ahead(self, *, updates: bool) -> tuple[Costs, float]:
        """Costs, of as few updates as there can be, or of none; seconds of the step with one, and of timing it."""
        self.trainer.open_source()
        self.trainer.setup.console = Console(quiet=True)
        costs, context = self._costs(0.0 if updates else None), self.context
        each = costs.of_update(self._shares(1)) if updates else 0.0
        length = replace(self.planned, updates=1)
        once = costs.of_step(each, length, context.samples, context.evaluation, context.clock)
        return costs, 2 * self.building + (WARM_UP + TIMED) * sum(costs.update.values()) + once

    def _shares(self, updates: int) -> dict[Kind, float]:
        """How many of so many updates are of each kind."""
        places = self._places(updates)
        total = sum(map(len, places.values()))
        return {kind: len(at) / total for kind, at in places.items()}

    def _places(self, updates: int) -> dict[Kind, list[int]]:
        """Some updates of each kind, as often as they occur among so many."""
        self.trainer.length = replace(self.planned, updates=updates)
        looked = range(updates) if updates <= PLACES else sorted(random.Random(0).sample(range(updates), PLACES))
        found: dict[Kind, list[int]] = {}
        for update in looked:
            found.setdefault(self.trainer.kind(update), []).append(update)
        return found

    def _costs(self, seconds: float | None) -> Costs:
        """`seconds`: of which a share goes into timing updates; None: these are not timed."""
        trainer = self.trainer
        update = {} if seconds is None else self._updates(seconds)
        if self.known:
            return replace(self.known, update=update, save=self._timed(self._save))  # now with what optimizers keep
        trainer.update_index = 1
        trainer.length = replace(self.planned, updates=2)
        evaluates = self.context.evaluation.every_epochs is not None
        first, later = self._twice(self._evaluate) if evaluates else (0.0, 0.0)
        samples = self.context.samples
        draws = any((samples.every_epochs, samples.every_updates, samples.samples_per_checkpoint))
        pictures = self._twice(lambda: trainer.draw("000"))[1] if draws else 0.0
        trainer.length = replace(self.planned, updates=1)  # this is the last one
        last = self._timed(self._evaluate) if evaluates else 0.0
        return Costs(update, first, later, last, pictures, self._timed(self._save), self._twice(self._end)[1])

    def _updates(self, seconds: float) -> dict[Kind, float]:
        """Seconds of an update of each kind, timed for a share of `seconds`."""
        places = self._places(self.planned.updates)
        total, update = sum(map(len, places.values())), {}
        with closing(self.trainer.batches(0, ENDLESS)) as batches:
            for kind, at in places.items():
                update[kind] = self._update(batches, at, SHARE * seconds * len(at) / total)
        return update

    def _update(self, batches: Iterator[Batch], places: list[int], seconds: float) -> float:
        """Seconds of an update at `places`, over at least `seconds` after as many of warming up."""
        self._run(batches, places, seconds, WARM_UP)
        started = clock.now()
        done = self._run(batches, places, seconds, TIMED)
        return (clock.now() - started) / done

    def _run(self, batches: Iterator[Batch], places: list[int], seconds: float, least: int) -> int:
        """Make at least so many updates, for at least `seconds`; how many. Interrupted: a signal came."""
        trainer, ends = self.trainer, clock.now() + seconds
        for done, place in enumerate(cycle(places), start=1):
            trainer.update_index = place
            with suppress(NonFiniteError):  # which is the business of the updates that stay
                trainer.update(next(batches))
            if done % READ == 0 or trainer.prompt:
                self._settle()
            mine = [self.context.stop.signum or 0, int(done >= least and clock.now() >= ends)]
            signum, over, micro_batches = self.ranks.largest([*mine, trainer.accumulation.micro_batches()])
            trainer.accumulation.agree(micro_batches, update=place + 1)
            if signum:
                raise Interrupted(signum)
            if over:
                break
        self._settle()
        return done

    def _settle(self) -> None:
        """Wait for the device."""
        with suppress(NonFiniteError):
            self.trainer.settle()

    def _timed(self, action: Callable[[], object]) -> float:
        started = clock.now()
        with suppress(NonFiniteError):
            action()
        return clock.now() - started

    def _twice(self, action: Callable[[], object]) -> tuple[float, float]:
        """Seconds of the first time, and of later ones; what takes long is done once."""
        first = self._timed(action)
        again = self.ranks.from_first(first < SHARE * self.seconds)
        return first, self._timed(action) if again else first

    def _evaluate(self) -> None:
        self.trainer.validate()
        self.trainer.examine()

    def _save(self) -> None:
        saved = self.trainer.state_dict() if self.trainer.looks else {}
        if self.ranks.first:
            self.context.checkpoints.save(saved, index=self.context.index, step=self.context.name, update=1)

    def _end(self) -> None:
        """What follows a step's last save; after the run's last step more does."""
        context = self.context
        publish.publish_step(context, self.trainer, self.config)
        if self.ranks.first and context.index == context.steps:
            publish.publish_step(context, self.trainer, self.config)  # as long as for final.safetensors
            draw_graphs(context.folder, Console(quiet=True))
