"""For each step of the stage: done? then go on; else build its parts and trainer, fit, publish weights."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from fluxflow_exp import step_plan, verify
from fluxflow_exp.config.compose import instantiate, typed
from fluxflow_exp.config.schema import RunConfig, Step
from fluxflow_exp.console import Console
from fluxflow_exp.data.build import build_data
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import clock, sharding
from fluxflow_exp.machine import ranks as distributed
from fluxflow_exp.machine.hardware import Machine, prepare
from fluxflow_exp.machine.preemption import Interrupted, StopRequest
from fluxflow_exp.machine.ranks import Ranks
from fluxflow_exp.models import weights
from fluxflow_exp.monitor.finite import NonFiniteError
from fluxflow_exp.preflight.hardware import hardware_problems
from fluxflow_exp.run import failures, mirror, summary
from fluxflow_exp.run.checkpoint import CheckpointStore
from fluxflow_exp.run.folder import Mirror, RunFolder, run_path
from fluxflow_exp.run.identity import identity_digest
from fluxflow_exp.run.live_report import LiveReport, draw_graphs, write_card
from fluxflow_exp.run.opening import open_run
from fluxflow_exp.run.save_interval import SaveClock
from fluxflow_exp.run.wandb import WandbRun, final_metrics
from fluxflow_exp.seeding import seed_initialisation
from fluxflow_exp.step_length import Length, lengths_of
from fluxflow_exp.trainers import nonfinite_report, publish
from fluxflow_exp.trainers.base import Trainer
from fluxflow_exp.trainers.context import StepContext


def run(values: dict[str, Any], *, swept: str = "", started: float | None = None) -> None:
    """Train what the resolved configuration `values` describes; as one rank of several, if a launcher made it one.

    `swept` names a sweep's job folder; `started` (clock.now) is when the run's time began, by default now.
    SystemExit: a signal stopped the run after a save.
    """
    started = clock.now() if started is None else started
    config = typed(values)
    machine = prepare(config.hardware, local_rank=distributed.local_rank(), computes=not config.validate)
    if config.validate:
        lacking = [f"  note: {line}" for line in hardware_problems(config.hardware)]
        Console().say("\n".join([_plan(config, build_data(config), machine)[1], *lacking]))
        return
    ranks = distributed.start(machine.device, config.hardware.devices)
    folder = RunFolder(run_path(values, swept), mirror=Mirror.of(values, swept), first=ranks.first)
    console = Console(quiet=not ranks.first)
    try:
        with StopRequest() as stop:
            stop.alone = ranks.count == 1
            _train(values, config, folder, machine, ranks, console, stop, started)
    except Exception as error:
        cause = ranks.cause(error)
        told = UserError(cause) if cause else failures.of_run(error, folder)
        if ranks.first and console.logs:  # it had the folder
            failures.record(error, told, folder, console)
            with suppress(OSError):
                write_card(folder, console)
        ranks.fail(str(told) or type(told).__name__)
        if told is error:
            raise
        raise told from error
    finally:
        folder.unlock()
    ranks.leave()


def _train(
    values: dict[str, Any],
    config: RunConfig,
    folder: RunFolder,
    machine: Machine,
    ranks: Ranks,
    console: Console,
    stop: StopRequest,
    started: float,
) -> None:
    if not ranks.first:  # what the first rank indexes, the others find
        ranks.meet()
    data = build_data(config)
    if ranks.first:
        ranks.meet()
    lengths, text = _plan(config, data, machine, ranks)
    console.say(text)
    opened = open_run(folder, values, lengths, data, console, machine=machine.describe()) if ranks.first else None
    if ranks.from_first(opened) == "complete":
        if ranks.first:
            if folder.locked and not verify.lists(
                folder, folder.summary
            ):  # the start that trained it ended before that
                _tell_of(folder, console)
            mirror.follow(folder, console, then="the same command")
        return
    if ranks.first:
        console.log_to(folder.log)
        folder.count_from(started)
    if ranks.peers:
        ranks.peers.on_failure = folder.record_failure
    wandb = WandbRun(folder, config.tracking, console)
    if ranks.first:
        wandb.start()
    try:
        Pipeline(config, folder, machine, ranks, console, lengths, data, stop, wandb).run()
    except Interrupted as interrupted:
        console.say(f"Stopped by {interrupted}; everything is saved in {folder.path}. {failures.how_to_continue()}")
        _close(folder, closing="stopped", console=console)
        wandb.finish(code=128 + interrupted.signum)
        ranks.leave()
        if stop.hand_back(interrupted.signum) and ranks.peers and not ranks.first:
            # A task that ends takes the job down, and the first one still has to put it back into the queue.
            ranks.peers.outlast_first()
        raise SystemExit(128 + interrupted.signum) from interrupted
    except BaseException:
        with suppress(OSError, UserError):  # the first error is the one to be told
            _close(folder, closing="ended")
        with suppress(OSError):
            wandb.finish(code=1)
        raise
    _close(folder, closing="ended")
    if ranks.first:
        summary.write(folder, console)
        _tell_of(folder, console)
        wandb.finish(code=0, metrics=final_metrics(folder))
        mirror.finish(folder)


def _tell_of(folder: RunFolder, console: Console) -> None:
    """Leave the digests and the card that follow the summary of a run."""
    verify.write_digests(folder, console)
    write_card(folder, console)


def _plan(
    config: RunConfig, data: dict[str, Any], machine: Machine, ranks: Ranks | None = None
) -> tuple[dict[str, Length], str]:
    """The steps' lengths, and what is going to be done in words."""
    count = ranks.count if ranks else config.hardware.devices * config.hardware.slurm.nodes
    lengths = lengths_of(config, data, ranks=count)
    step_plan.check_losses(config)
    return lengths, step_plan.describe(config, lengths, data, machine, count)


def _close(folder: RunFolder, *, closing: str, console: Console | None = None) -> None:
    """Note in the record how this process ends: "stopped" after a save, so that nothing is lost, or "ended"."""
    if folder.locked and not folder.closed:
        folder.count_time(closing=closing)
        if console:
            mirror.follow(folder, console, then="the same command")


class Pipeline:
    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        machine: Machine,
        ranks: Ranks,
        console: Console,
        lengths: dict[str, Length],
        data: dict[str, Any],
        stop: StopRequest,
        wandb: WandbRun,
    ) -> None:
        self.wandb = wandb
        self.config, self.folder, self.machine, self.console = config, folder, machine, console
        self.lengths, self.data, self.ranks, self.stop = lengths, data, ranks, stop
        self.live_report = LiveReport(folder.path)
        # What is timed or rehearsed in a folder that is no run's saves nothing that could be another's.
        mine = identity_digest(folder.frozen()) if folder.config.exists() else None
        self.checkpoints = CheckpointStore(folder.checkpoints, keep=config.checkpoint.keep, run=mine)
        record = folder.read_record() if ranks.first and folder.exists() else {}
        self.clock = SaveClock(
            every_minutes=config.checkpoint.every_minutes,
            every_updates=config.checkpoint.every_updates,
            kills=record.get("kills", 0),
            lived=record.get("wall_seconds", 0.0),
        )

    def run(self) -> None:
        record = self.ranks.from_first(self.folder.read_record() if self.ranks.first else {})
        earlier: list[str] = []
        for index, (name, step) in enumerate(self.config.stage.steps.items(), start=1):
            if not summary.is_finished(record["steps"].get(name), record["planned"][name]):
                self._step(index, name, step, earlier)
            earlier.append(name)
        if self.ranks.first:
            publish.publish_final(self.folder, earlier)
            self.live_report.wait()
            draw_graphs(self.folder, self.console)

    def _step(self, index: int, name: str, step: Step, earlier: list[str]) -> None:
        (signum,) = self.ranks.largest([self.stop.signum or 0])
        if signum:  # since the step before had its last batch
            raise Interrupted(signum)
        self.machine.forget_peak()
        setup = self.setup(index, name, step, earlier)
        try:
            trainer: Trainer = instantiate(step.trainer, setup=setup)
        except ValueError as error:
            raise UserError(f"stage.steps.{name}: {error}") from error
        self.console.open_step(setup, description=step.description, epochs=step.n_epochs)
        try:
            final = trainer.fit()
        except NonFiniteError as error:
            raise nonfinite_report.explain(trainer, error) from error
        finally:
            self.console.close_step()
        publish.publish_step(setup, trainer, self.config)
        if self.ranks.first:
            publish.finish_step(setup, trainer, final)
            if index < setup.steps:  # after the last step they are drawn anyway
                self.live_report.refresh()
            verify.write_digests(self.folder, self.console)
            mirror.follow(self.folder, self.console)
        self.ranks.meet()  # the next step reads what the first rank has published

    def setup(self, index: int, name: str, step: Step, earlier: list[str]) -> StepContext:
        config = self.config
        given = weights.find_parts(Path(step.init_from).expanduser()) if step.init_from else {}
        return StepContext(
            name=name,
            index=index,
            steps=len(config.stage.steps),
            seed=config.seed,
            length=self.lengths[name],
            parts=self._build_parts(name, step, earlier, given),
            given=[part for part in step_plan.needed_parts(step) if part in given],
            optimizers={player: instantiate(node) for player, node in step.optimizers.items()},
            schedulers={player: instantiate(node) for player, node in step.schedulers.items()},
            freeze=step.freeze,
            unfreeze=step.unfreeze,
            transition_on=step.transition_on,
            ema_decay=step.ema.decay if step.ema else None,
            gradient_clip=step.gradient_clip or None,  # 0, too, is off
            cfg_dropout_prob=step.cfg_dropout_prob,
            data=self.data[name],
            num_workers=config.hardware.num_workers,
            machine=self.machine,
            ranks=self.ranks,
            folder=self.folder,
            checkpoints=self.checkpoints,
            clock=self.clock,
            stop=self.stop,
            console=self.console,
            live_report=self.live_report,
            wandb=self.wandb,
            cache=step_plan.cache_folder(config, name, self.data[name], self.lengths[name])[0],
            log_every=config.log_every,
            samples=config.samples,
            evaluation=config.evaluation,
            health=config.health,
        )

    def _build_parts(self, name: str, step: Step, earlier: list[str], given: dict[str, Path]) -> dict[str, nn.Module]:
        """Fresh parts, filled from an earlier step or `init_from`: raw weights to train on, averaged ones to use."""
        trained = step_plan.trained_parts(step)
        made = weights.find_parts(self.folder.path, steps=earlier) if earlier else {}
        parts = {}
        for part in step_plan.needed_parts(step):
            seed_initialisation(self.config.seed, part)
            parts[part] = instantiate(getattr(self.config.model, part))
            holder = given.get(part) or made.get(part)
            if holder is None:
                self._announce_fresh(name, part, earlier)
                continue
            raw = holder.with_name(holder.name.replace(".safetensors", ".raw.safetensors"))
            source = raw if part in trained and raw.is_file() else holder
            parts[part].load_state_dict(weights.read_part(source, part))
            self.console.say(f"Step {name}: {part} from {source}")
        for module in parts.values():
            self.machine.place(module)
            if self.config.hardware.activation_checkpointing and hasattr(module, "checkpointing"):
                module.checkpointing = True
        if self.config.hardware.parallel == "fsdp" and self.ranks.count > 1 and "flow_processor" in trained:
            sharding.shard(parts["flow_processor"], self.ranks, self.machine.device)
        return parts

    def _announce_fresh(self, name: str, part: str, earlier: list[str]) -> None:
        if earlier and not self.checkpoints.newest(name):  # a step that continues has said it before
            self.console.say(f"Step {name}: {part} starts from fresh weights (no earlier step made it)")
