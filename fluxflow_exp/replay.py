"""`python -m fluxflow_exp.replay RUN`: do one update of a run again, with an eye on every module.

Position and randomness are functions of the update, so that the newest checkpoint before it and the updates between
give the same numbers again. The run folder is only read; what has to be written goes to a temporary one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxflow_exp import files
from fluxflow_exp.config import published
from fluxflow_exp.console import Console
from fluxflow_exp.errors import UserError, counted, did_you_mean
from fluxflow_exp.run import failures, lookup
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import read_rows

if TYPE_CHECKING:
    from fluxflow_exp.data.loader import Batch
    from fluxflow_exp.monitor.finite import NonFiniteError
    from fluxflow_exp.monitor.module_hooks import NonFiniteHooks
    from fluxflow_exp.trainers.base import Trainer

BEFORE, AFTER = 6, 2  # what modules gave, shown around the first value that is not finite


def replay(run: RunFolder, step: str, update: int, *, precision: str | None = None) -> dict[str, Any]:
    """Do update `update` (from 1) of `step` again. UserError: it cannot be.

    Gives what `--json` writes. On failure the images of the samples at fault are in `RUN/replay/`.
    """
    from fluxflow_exp.monitor.finite import NonFiniteError
    from fluxflow_exp.monitor.module_hooks import NonFiniteHooks

    with _view(run, step, update) as scratch:
        try:
            trainer = _trainer(scratch, step, update, precision)
        except ValueError as error:  # of weights that are gone; in the words of the run's own folder
            raise UserError(str(error).replace(str(scratch.path), str(run.path))) from error
        start = trainer.update_index
        console = Console()
        console.say(
            f"Replaying update {update} of step {step} of {run.path}, from "
            f"{f'the checkpoint after update {start}' if start else 'the beginning of the step'}, "
            f"{trainer.machine.precision}, eager"
        )
        with closing(trainer.batches(start, update)) as batches:
            for batch in console.track(batches, "Repeating updates", total=update - start):
                with NonFiniteHooks(trainer.setup.parts if trainer.update_index == update - 1 else {}) as hooks:
                    try:
                        trainer.advance(batch)
                    except NonFiniteError as error:
                        if error.place.update != update:
                            raise UserError(f"before update {update}: {error}; name that one with --update") from error
                        return _failure(run, trainer, batch, hooks, error)
        rows = [row for row in read_rows(trainer.rows.path) if row["kind"] == "train"]
        again = rows[-1]["metrics"] if rows and rows[-1]["global_step"] == update else None
        return {
            "step": step,
            "update": update,
            "finite": True,
            "losses": trainer.latest,
            "row": again,  # means since the row before it, as they are logged
            "same_as_logged": None if again is None else again == _logged(run, step, update),
        }


@contextmanager
def _view(run: RunFolder, step: str, update: int) -> Iterator[RunFolder]:
    """A temporary folder with what the run had before `update`; nothing that is written there reaches the run."""
    from fluxflow_exp.run.checkpoint import NAME

    with tempfile.TemporaryDirectory() as scratch:
        view = RunFolder(Path(scratch) / run.path.name)
        for folder in (view.checkpoints, view.graph, view.samples):
            folder.mkdir(parents=True)
        for file in (run.config, run.record, run.bad_samples):
            if file.exists():
                shutil.copy(file, view.path)
        view.weights.symlink_to(run.weights.absolute())
        for path in run.checkpoints.glob("*.pt"):
            saved = NAME.fullmatch(path.name)
            if saved and saved["step"] == step and int(saved["update"]) < update:
                (view.checkpoints / path.name).symlink_to(path.absolute())
        yield view


def _trainer(folder: RunFolder, name: str, update: int, precision: str | None) -> Trainer:
    """A trainer of step `name` as it was before the first update that is repeated."""
    import torch

    from fluxflow_exp.config.compose import typed
    from fluxflow_exp.data.build import build_data
    from fluxflow_exp.machine.hardware import prepare
    from fluxflow_exp.preflight import check
    from fluxflow_exp.run import frozen, time_budget
    from fluxflow_exp.step_length import lengths_of
    from fluxflow_exp.trainers.build import build_trainer, run_context

    values = frozen.to_build(folder.config)
    _link_caches(values, folder.path.parent)
    values = _plainly(values, precision, scratch=folder.path.parent)
    config = typed(values)
    if config.hardware.device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"this run was trained on a GPU (hardware={config.hardware.name}), and this machine shows none")
    wrong = check.problems(values, begun=True)
    if wrong:
        raise UserError(*wrong)
    machine, data = prepare(config.hardware), build_data(config)
    lengths = time_budget.fixed(folder.read_record(), values, lengths_of(config, data))
    if update > lengths[name].updates:
        raise UserError(f"--update {update}: step {name} has {counted(lengths[name].updates, 'update')}")
    run, steps = run_context(config, folder, machine), list(config.stage.steps)
    earlier = steps[: steps.index(name)]
    trainer = build_trainer(config, name, run, length=lengths[name], data=data[name], earlier=earlier)
    trainer.prompt = True  # an update is judged before the next
    trainer.begin()
    return trainer


def _plainly(values: dict[str, Any], precision: str | None, *, scratch: Path) -> dict[str, Any]:
    """A run's configuration without what does not change its numbers, on one device, layer by layer; written is to
    `scratch` alone."""
    hardware = {**values["hardware"], "compile": False, "cuda_graphs": False, "devices": 1, "parallel": "ddp"}
    hardware["slurm"] = {**hardware["slurm"], "nodes": 1}
    if precision:
        hardware["precision"] = precision
    pictures = dict.fromkeys(("every_epochs", "every_updates", "samples_per_checkpoint"))
    return {
        **values,
        "hardware": hardware,
        "samples": {**values["samples"], **pictures},
        "evaluation": {**values["evaluation"], "prompts": 0},  # a schedule may follow the others
        "health": {"images": None},
        "output_root": str(scratch),
        "checkpoint": {**values["checkpoint"], "mirror": None},
        "cache": {**values["cache"], "path": None},
    }


def _link_caches(values: dict[str, Any], scratch: Path) -> None:
    """Let a replay read what has been cached, and write what has not to `scratch`."""
    given = Path(values["cache"]["path"] or Path(values["output_root"], "cache")).expanduser()
    (scratch / "cache").mkdir()
    for entry in given.glob("*-*"):
        (scratch / "cache" / entry.name).symlink_to(entry.absolute())


def _logged(run: RunFolder, step: str, update: int) -> dict[str, Any] | None:
    rows = read_rows(run.metrics(step))
    return next((r["metrics"] for r in rows if (r["kind"], r["global_step"]) == ("train", update)), None)


def _failure(
    run: RunFolder, trainer: Trainer, batch: Batch, hooks: NonFiniteHooks, error: NonFiniteError
) -> dict[str, Any]:
    origin = hooks.origin(error)
    around = []
    if origin:
        first = max(origin[0] - BEFORE, 0)
        around = [each._asdict() for each in hooks.seen[first : origin[0] + 1 + AFTER]]
    return {
        "step": error.place.step,
        "update": error.place.update,
        "finite": False,
        "term": error.term,
        "player": error.player,
        "module": origin[1] if origin else None,
        "direction": hooks.seen[origin[0]].direction if origin else None,
        "ids": error.ids,
        "images": _write_images(run, trainer, batch, error),
        "around": around,
    }


def _write_images(run: RunFolder, trainer: Trainer, batch: Batch, error: NonFiniteError) -> dict[str, str]:
    """Sample → file, for the samples at fault."""
    import torch

    from fluxflow_exp import pictures
    from fluxflow_exp.data.loader import epoch_batches
    from fluxflow_exp.data.protocols import Stream
    from fluxflow_exp.data.reading import read_all

    shown = dict(zip(batch.ids, batch.images, strict=True))
    if batch.images.dtype != torch.uint8:  # latents of a cache
        source, length = trainer.setup.data.train, trainer.length
        assert not isinstance(source, Stream)  # of which nothing is cached
        epoch, place = divmod(error.place.update - 1, length.updates_per_epoch)
        indices = epoch_batches(source, length.batch_size, seed=trainer.setup.seed, epoch=epoch)[place]
        read = read_all(source, indices, seed=trainer.setup.seed)
        shown = dict(zip(read.ids, read.images, strict=True))
    folder = run.path / "replay" / f"{error.place.step}-{error.place.update:08d}"
    found = {}
    for position, sample in enumerate(dict.fromkeys(error.ids)):
        if sample in shown:
            path = folder / f"{position:03d}_{pictures.short_hash(sample)}.png"
            try:
                pictures.save(shown[sample], path)
            except OSError as error:  # what was found is told without them
                print(f"Note: {failures.of_file(error)}", file=sys.stderr)
                break
            found[sample] = str(path)
    return found


def _lines(found: dict[str, Any]) -> list[str]:
    """The findings, for a person."""
    where = f"update {found['update']} of step {found['step']}"
    if found["finite"]:
        lines = [f"Everything in {where} is finite:"]
        lines += [f"  {name:<20} {value:.9g}" for name, value in found["losses"].items()]
        if found["same_as_logged"] is not None:
            same = "bit for bit the logged one" if found["same_as_logged"] else "not the logged one"
            lines.append(f"The row of update {found['update']} is {same}")
        return lines
    what = f"the loss {found['term']!r}" if found["term"] else f"the gradient of player {found['player']!r}"
    lines = [f"In {where} {what} is not finite."]
    if found["module"]:
        lines.append(f"It begins in the module {found['module']} ({found['direction']} pass):")
    else:
        lines.append("What the modules give is finite: it arises in the loss itself")
    for each in found["around"]:
        within = "no finite value" if each["low"] is None else f"{each['low']:.4g} … {each['high']:.4g}"
        bad = f"   {each['bad']} of {each['values']} values are not finite" if each["bad"] else ""
        lines.append(f"  {each['direction']:<8} {each['module']:<44} {within}{bad}")
    lines.append(f"Samples: {', '.join(found['ids'][:8])}{' …' if len(found['ids']) > 8 else ''}")
    lines += [f"  {sample}: {path}" for sample, path in list(found["images"].items())[:8]]
    return lines


def _target(run: RunFolder, step: str | None, update: int | None) -> tuple[str, int]:
    """The update that is meant: the one asked for, else the one that failed, else the last that was logged."""
    steps = list(run.frozen()["stage"]["steps"])
    if step is not None and step not in steps:
        raise UserError(f"--step {step}: this run has no such step{did_you_mean(step, steps)}: {', '.join(steps)}")
    failed = files.read_json(run.non_finite) if run.non_finite.exists() else None
    if failed and step in (None, failed["step"]) and update is None:
        return failed["step"], failed["update"]
    logged = {each: [r["global_step"] for r in read_rows(run.metrics(each)) if r["kind"] == "train"] for each in steps}
    started = [each for each in steps if logged[each]]
    step = step or (started[-1] if started else steps[0])
    if update is None and not logged[step]:
        raise UserError(f"step {step} of {run.path} has logged no update: name one with --update")
    update = update if update is not None else logged[step][-1]
    if update < 1:
        raise UserError(f"--update {update}: updates count from 1")
    return step, update


@failures.command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.replay",
        description="Repeat one update of a run, by default the one that was not finite: which module, which loss, "
        "which samples. Nothing in the run changes; images of the samples are written to RUN/replay.",
        epilog="Examples: python -m fluxflow_exp.replay outputs/full | … outputs/full --precision fp32 (is it the "
        "precision?) | … outputs/full --step vae --update 400. Exit code: 0 the update is finite, 1 it is not, "
        "2 it cannot be repeated.",
    )
    parser.add_argument("run", type=Path, help="run folder, e.g. outputs/quickstart")
    parser.add_argument("--step", help="by default the one that failed, else the last that was logged")
    parser.add_argument("--update", type=int, help="of the step, from 1; by default the one that failed, else the last")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="another one than the run's")
    parser.add_argument("--trust", action="append", default=[], metavar="WORD", help=published.TRUST)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found as JSON to FILE")
    options = parser.parse_args(arguments)
    published.allow(options.trust)
    run = lookup.one(options.run)
    step, update = _target(run, options.step, options.update)
    found = replay(run, step, update, precision=options.precision)
    print("\n".join(_lines(found)))
    if options.json:
        files.write_json(options.json, found)
    return 0 if found["finite"] else 1


if __name__ == "__main__":
    sys.exit(main())
