"""For each step of the stage: done? then go on; else build its parts and trainer, fit, publish weights."""

from contextlib import suppress
from typing import Any, NoReturn

from fluxflow_exp import step_plan, verify
from fluxflow_exp.config.compose import instantiate, typed
from fluxflow_exp.config.schema import RunConfig
from fluxflow_exp.console import Console
from fluxflow_exp.data.build import build_data
from fluxflow_exp.data.protocols import Stream
from fluxflow_exp.errors import ToldElsewhere, UserError
from fluxflow_exp.machine import clock, cores
from fluxflow_exp.machine.hardware import Machine, prepare
from fluxflow_exp.machine.preemption import Interrupted, StopRequest
from fluxflow_exp.machine.ranks import Ranks, local_rank, start_ranks
from fluxflow_exp.monitor.finite import NonFiniteError
from fluxflow_exp.monitor.start_up import StartUp
from fluxflow_exp.preflight.hardware import hardware_problems
from fluxflow_exp.run import failures, mirror, opening, refusals, summary, time_budget
from fluxflow_exp.run.compiled_code import compiled_code
from fluxflow_exp.run.folder import Mirror, RunFolder, run_path
from fluxflow_exp.run.live_report import LiveReport, draw_graphs, write_card
from fluxflow_exp.run.wandb import WandbRun, final_metrics
from fluxflow_exp.step_length import Length, lengths_of
from fluxflow_exp.step_plan import caches_folder
from fluxflow_exp.trainers import intervals, nonfinite_report, publish
from fluxflow_exp.trainers.base import Trainer
from fluxflow_exp.trainers.build import read_early, run_context, step_context
from fluxflow_exp.trainers.context import RunContext
from fluxflow_exp.trainers.minutes import Minutes


def run(values: dict[str, Any], *, swept: str = "", start_up: StartUp | None = None) -> None:
    """Train what the resolved configuration `values` describes; as one rank of several, if a launcher made it one.

    `swept` names a sweep's job folder; the run's time begins with `start_up`, by default now.
    SystemExit: a signal stopped the run after a save. KeyboardInterrupt: a second one at once, in words if the run had
    begun.
    """
    start_up = start_up or StartUp()
    config = typed(values)
    machine = prepare(config.hardware, local_rank=local_rank(), computes=not config.validate)
    if config.validate:
        _validate(values, config, machine, swept)
        return
    ranks = start_ranks(machine.device, config.hardware.devices)
    start_up.ends("device")
    folder = RunFolder(run_path(values, swept), mirror=Mirror.of(values, swept), first=ranks.first)
    console = Console(quiet=not ranks.first)
    try:
        with StopRequest() as stop:
            stop.alone = ranks.count == 1
            # Failures are recorded in here: a scheduler that ends the other ranks must not cut the reason off.
            try:
                _train(values, config, folder, machine, ranks, console, stop, start_up)
            except Exception as error:
                _fail(error, folder, ranks, console)
            except KeyboardInterrupt:
                begun = _has_run(folder, ranks, console)
                _leave_card(folder, ranks, console)
                other = "" if ranks.first else "stopped at once"
                raise KeyboardInterrupt(failures.at_once(folder) if begun else other) from None
    finally:
        folder.unlock()
    ranks.leave()


def _validate(values: dict[str, Any], config: RunConfig, machine: Machine, swept: str) -> None:
    """Say what the command would do. UserError: what it would refuse."""
    data, folder = build_data(config), RunFolder(run_path(values, swept))
    lengths, text = _plan(_begun(config, folder), data, machine)
    if refusals.refuse(folder, values, lengths, data) == "complete":
        text = f"{folder.path}: complete"
    lacking = [f"  note: {line}" for line in hardware_problems(config.hardware)]
    Console().say("\n".join([text, *lacking]))


def _fail(error: Exception, folder: RunFolder, ranks: Ranks, console: Console) -> NoReturn:
    """Leave the reason in the folder and with the other ranks, then raise it in words, which one of the ranks says."""
    own = failures.of_run(error, folder)
    message = str(own) or type(own).__name__
    cause = ranks.fail(error, message)
    told = own if cause is None or cause.endswith(f": {message}") else UserError(cause)
    if _has_run(folder, ranks, console):
        failures.record(error, told, folder, console)
    _leave_card(folder, ranks, console)
    ranks.outlive_others()
    if isinstance(told, UserError) and not ranks.tells(cause):
        raise ToldElsewhere(*told.args) from error
    if told is error:
        raise error
    raise told from error


def _has_run(folder: RunFolder, ranks: Ranks, console: Console) -> bool:
    """Whether this process writes in the folder, and has not undone what it began there."""
    return ranks.first and console.logs and folder.exists()


def _leave_card(folder: RunFolder, ranks: Ranks, console: Console) -> None:
    """Let the card of a run that ends before its time say so: the last one was written while it went on."""
    if _has_run(folder, ranks, console):
        with suppress(OSError):
            write_card(folder, console)


def _train(
    values: dict[str, Any],
    config: RunConfig,
    folder: RunFolder,
    machine: Machine,
    ranks: Ranks,
    console: Console,
    stop: StopRequest,
    start_up: StartUp,
) -> None:
    if not ranks.first:  # what the first rank indexes, the others find
        ranks.meet()
    data = build_data(config)
    if ranks.first:
        ranks.meet()
    lengths, text = _plan(_begun(config, folder), data, machine, ranks, taken=clock.now() - start_up.began)
    start_up.ends("data")
    there = folder.exists()
    opened = (
        opening.open_run(folder, values, lengths, data, console, machine=machine.describe()) if ranks.first else None
    )
    if ranks.from_first(opened) == "complete":
        if ranks.first:
            _look_after(config, folder, console)
        return
    if ranks.first:
        folder.count_from(start_up.began)
    if ranks.peers:
        ranks.peers.on_failure = folder.record_failure
    wandb, live = WandbRun(folder, config.tracking, console), LiveReport(folder.path)
    try:
        given = run_context(config, folder, machine, ranks=ranks, console=console, stop=stop, wandb=wandb, live=live)
        given.start_up, given.compiled_code = start_up, compiled_code(config, values, machine, caches_folder(config))
        start_up.ends("run folder")
        stays = ranks.from_first(there or opened != "new")
        if ranks.first:
            console.log_to(folder.log)
        minutes = Minutes(config, given, data, stays=stays)
        with opening.undone(folder, ranks, undo=not stays):
            minutes.hold(lengths, text)
        if ranks.first:
            wandb.start()
        _train_steps(config, given, lengths, data, minutes)
    except Interrupted as interrupted:
        live.end()
        _stopped(interrupted, folder, ranks, console, stop, wandb)
    except BaseException:
        live.end()
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


def _stopped(
    interrupted: Interrupted, folder: RunFolder, ranks: Ranks, console: Console, stop: StopRequest, wandb: WandbRun
) -> NoReturn:
    """Close what a signal has stopped after a save."""
    saved = f"; everything is saved in {folder.path}"
    with suppress(OSError):
        saved = saved if not ranks.first or failures.has_saved(folder) else " before the first update"
    console.say(f"Stopped by {interrupted}{saved}. {failures.how_to_continue()}")
    _close(folder, closing="stopped", console=console)
    _leave_card(folder, ranks, console)
    wandb.finish(code=128 + interrupted.signum)
    ranks.leave()
    if stop.hand_back(interrupted.signum) and ranks.peers and not ranks.first:
        # A task that ends takes the job down, and the first one still has to put it back into the queue.
        ranks.peers.outlast_first()
    raise SystemExit(128 + interrupted.signum) from interrupted


def _look_after(config: RunConfig, folder: RunFolder, console: Console) -> None:
    """Let a complete run have what is asked of it now, and what the start that completed it did not come to."""
    chosen = publish.follow_choice(folder, list(config.stage.steps), choice=config.publish.weights)
    if chosen:
        console.say(chosen)
    if folder.locked and not verify.lists(folder, folder.summary, folder.weights / "final.safetensors"):
        _tell_of(folder, console)  # these are new, or the start that wrote them ended before that
    mirror.follow(folder, console, then="the same command")


def _tell_of(folder: RunFolder, console: Console) -> None:
    """Leave the digests and the card that follow the summary of a run."""
    verify.write_digests(folder, console)
    write_card(folder, console)


def _plan(
    config: RunConfig, data: dict[str, Any], machine: Machine, ranks: Ranks | None = None, *, taken: float = 0.0
) -> tuple[dict[str, Length], str]:
    """The steps' lengths, and what is going to be done in words."""
    count = ranks.count if ranks else config.hardware.ranks
    lengths = lengths_of(config, data, ranks=count)
    step_plan.check_losses(config)
    text = step_plan.describe(config, lengths, data, machine, count, taken)
    indexed = any(not isinstance(each.train, Stream) for each in data.values())
    few = cores.bound(config.hardware.num_workers) if indexed else None
    return lengths, f"{text}\n{few}" if few else text


def _begun(config: RunConfig, folder: RunFolder) -> RunConfig:
    """`config` as the run that is there goes on with it."""
    return config if config.resume == "fresh" else intervals.begun_with(config, folder)


def _close(folder: RunFolder, *, closing: str, console: Console | None = None) -> None:
    """Note in the record how this process ends: "stopped" after a save, so that nothing is lost, or "ended"."""
    if folder.locked and not folder.closed:
        folder.count_time(closing=closing)
        if console:
            mirror.follow(folder, console, then="the same command")


def _train_steps(
    config: RunConfig, run: RunContext, lengths: dict[str, Length], data: dict[str, Any], minutes: Minutes
) -> None:
    """Train what is not finished yet, one step after the other, and publish the run's final weights."""
    record = run.ranks.from_first(run.folder.read_record() if run.ranks.first else {})
    earlier: list[str] = []
    for name in config.stage.steps:
        if not summary.is_finished(record["steps"].get(name), record["planned"][name]):
            length = lengths[name]
            run.load_code(name)
            if time_budget.is_timed(config, name):
                length = minutes.length_of(name, length, earlier)
            _train_step(config, name, run, length, data[name], earlier)
        earlier.append(name)
    if run.ranks.first:
        publish.publish_final(run.folder, earlier, choice=config.publish.weights)
        run.live_report.wait()
        draw_graphs(run.folder, run.console)


def _train_step(config: RunConfig, name: str, run: RunContext, length: Length, data: Any, earlier: list[str]) -> None:
    step = config.stage.steps[name]
    (signum,) = run.ranks.largest([run.stop.signum or 0])
    if signum:  # since the step before had its last batch
        raise Interrupted(signum)
    run.machine.forget_peak()
    with read_early(config, name, run, length=length, data=data) as early:
        context = step_context(config, name, run, length=length, data=data, earlier=earlier)
        context.early = early
        try:
            trainer: Trainer = instantiate(step.trainer, setup=context)
        except ValueError as error:
            raise UserError(f"stage.steps.{name}: {error}") from error
        run.start_up.ends("model")
        run.console.open_step(name, length, index=context.index, steps=context.steps, description=step.description)
        try:
            final = trainer.fit()
        except NonFiniteError as error:
            raise nonfinite_report.explain(trainer, error) from error
        finally:
            run.console.close_step()
    publish.publish_step(context, trainer, config)
    peaks = run.ranks.to_first(run.machine.peak_gib())
    if run.ranks.first:
        publish.finish_step(context, trainer, final, peaks=peaks)
        if context.index < context.steps:  # after the last step they are drawn anyway
            run.live_report.refresh()
        verify.write_digests(run.folder, run.console)
        mirror.follow(run.folder, run.console)
    run.ranks.meet()  # the next step reads what the first rank has published
