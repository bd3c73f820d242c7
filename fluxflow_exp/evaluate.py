"""`python -m fluxflow_exp.evaluate RUN|WEIGHTS`: how good a model is on held-out images, each number with all that it
depends on, kept in `RUN/evaluations/`."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fluxflow_exp import files
from fluxflow_exp.config import published
from fluxflow_exp.config.compose import typed
from fluxflow_exp.errors import UserError
from fluxflow_exp.evaluation import measures, record
from fluxflow_exp.evaluation.arguments import TAKERS, parser, problems
from fluxflow_exp.run import failures
from fluxflow_exp.run.holders import holding

if TYPE_CHECKING:
    from torch import Tensor

    from fluxflow_exp.evaluation.evaluator import Evaluator, Wanted
    from fluxflow_exp.evaluation.published_model import Subject
    from fluxflow_exp.losses.perceptual import Perceptual
    from fluxflow_exp.machine.hardware import Machine

UNASKED = 2000  # training images that a CPU looks at without having been asked to, for three minutes


def evaluate(
    options: argparse.Namespace,
) -> tuple[list[record.Record], dict[str, str], Subject, dict[str, Tensor]]:
    """The records of what `options` (of `parser`) ask for, why other metrics were left out, what was measured, and the
    pictures that records name, uint8 (3, height, width).

    UserError: something that was asked for by name cannot be measured.
    """
    from fluxflow_exp.evaluation.published_model import FLOW, Subject

    published.allow(options.trust)
    drawn = any(
        measures.MEASURES[name].of != "reconstructions" for name in measures.MEASURES.keys() & (options.metrics or [])
    )
    subject = Subject(options.source, config=options.config, parts=FLOW[:1] if drawn else ())
    subject.check_trusted(data=not options.overrides)
    inside = f"{subject.run.path}, weights/{subject.file.name}" if subject.run else str(subject.file)
    print(f"EVALUATE: {inside}", flush=True)
    chosen, left_out = _chosen(options, subject)
    absent = measures.lacking(chosen, features=options.features)
    if absent:
        raise UserError(absent)
    perceptual = None
    if "lpips" in chosen:
        perceptual = _perceptual(options, left_out)
        chosen = chosen if perceptual else [name for name in chosen if name != "lpips"]
    machine = _machine(options)
    evaluator = _evaluator(subject, _wanted(options, chosen, subject), machine, perceptual, options.clip)
    chosen = _fitting(evaluator, chosen, options, left_out)
    _check_used(options, chosen, left_out)
    evaluator.wanted = _wanted(options, chosen, subject)
    for reason, names in _by_reason(left_out).items():
        print(f"left out: {', '.join(names)}: {reason}", flush=True)
    return evaluator.run(), left_out, subject, evaluator.pictures


def _chosen(options: argparse.Namespace, subject: Subject) -> tuple[list[str], dict[str, str]]:
    """Metrics that the weights allow, and why not the others. UserError: one that was asked for is among these."""
    from fluxflow_exp.evaluation.published_model import AUTOENCODER, FLOW

    asked: list[str] = options.metrics or []
    unknown = measures.name_problems(asked, known=tuple(measures.MEASURES), where="--metrics")
    if unknown:
        raise UserError(*unknown)
    taught = _taught(options, subject)
    able = holding(subject.run.weights, FLOW[:1]) if subject.run else []
    elsewhere = f"name {able[0]}" if able else "a run with a flow step has them"
    reasons = {}
    for name, measure in measures.MEASURES.items():
        autoencoder = measure.of == "reconstructions"
        lacking = subject.lacks(AUTOENCODER if autoencoder else (*AUTOENCODER, *FLOW))
        if lacking:
            trained = "" if autoencoder else f": {elsewhere}"
            reasons[name] = f"{subject.file} comes with no {' and no '.join(lacking)}{trained}"
        elif name in taught:
            reasons[name] = f"{options.features} taught this model, and does not judge it: --features ANOTHER"
        elif name == "clip_score" and options.clip is None:
            reasons[name] = "no CLIP was given (--clip NAME_OR_FOLDER)"
    return _sorted_out(list(measures.MEASURES), asked, reasons)


def _taught(options: argparse.Namespace, subject: Subject) -> tuple[str, ...]:
    """The metrics in features of the very network that the model was aligned with."""
    teacher = (subject.facts["flow"] or {}).get("teacher")
    if teacher is None or measures.lacking(list(measures.SETS), features=options.features):
        return ()
    from fluxflow_exp.evaluation.features import load
    from fluxflow_exp.models.patch_encoder import fingerprint

    return measures.SETS if fingerprint(load(options.features).model) == teacher else ()


def _fitting(
    evaluator: Evaluator, chosen: list[str], options: argparse.Namespace, left_out: dict[str, str]
) -> list[str]:
    """Return those of `chosen` that the held-out images allow."""
    from fluxflow_exp.evaluation.held_out import check_count
    from fluxflow_exp.evaluation.training_pictures import hidden

    reasons = {}
    for name in chosen:
        measure = measures.MEASURES[name]
        held_out = evaluator.held_out("expander" if measure.of == "reconstructions" else "flow_processor")
        size = held_out.data.img_size
        if size < measure.least:
            reasons[name] = f"needs images of {measure.least} pixels a side, and these have {size}"
        elif name == "copies" and (reason := hidden(held_out.data)):
            reasons[name] = reason
        elif name == "copies" and not options.metrics and _is_slow(evaluator, len(held_out.data.train)):
            reasons[name] = f"there are {len(held_out.data.train)} training images, and no GPU: --metrics copies"
        elif name == "prompt_accuracy" and not held_out.data.reads_back:
            reasons[name] = "only data=shapes can tell what an image shows"
        else:
            check_count(held_out, name)
        if name.startswith("retrieval") and options.within:
            _check_within(options.within, held_out.captions)
    kept, more = _sorted_out(chosen, options.metrics or [], reasons)
    left_out |= more
    return kept


def _is_slow(evaluator: Evaluator, training: int) -> bool:
    """Whether it takes long to look at the training images."""
    return evaluator.machine.device.type == "cpu" and min(training, evaluator.wanted.training_images) > UNASKED


def _check_within(pattern: str, captions: list[str]) -> None:
    """UserError: it is found in no caption."""
    if not any(re.search(pattern, caption) for caption in captions):
        raise UserError(f"--within {pattern!r} is found in no caption of the held-out images, as {captions[0]!r}")


def _check_used(options: argparse.Namespace, chosen: list[str], left_out: dict[str, str]) -> None:
    """UserError: something was asked of samples, or a CLIP given, and no metric that is measured takes it."""
    found, usual = [], parser()
    for option, takers in TAKERS.items():
        name = option.removeprefix("--").replace("-", "_")
        given = getattr(options, name) != usual.get_default(name)
        if given and not set(takers) & set(chosen):
            reasons = dict.fromkeys(left_out[name] for name in takers if name in left_out)
            why = f": {'; '.join(reasons)}" if reasons else ""
            found.append(f"{option} acts on {', '.join(takers)} alone, and none of these is measured{why}")
    if found:
        raise UserError(*found)


def _sorted_out(known: list[str], asked: list[str], reasons: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """The metrics to take, in order, and reasons of those left out without having been asked for."""
    refused = {name: reasons[name] for name in asked if name in reasons}
    if refused:
        raise UserError(*(f"--metrics {' '.join(names)}: {reason}" for reason, names in _by_reason(refused).items()))
    if asked:
        return [name for name in known if name in asked], {}
    return [name for name in known if name not in reasons], reasons


def _by_reason(reasons: dict[str, str]) -> dict[str, list[str]]:
    """Reason → the metrics that it holds for: each is said once."""
    found: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        found.setdefault(reason, []).append(name)
    return found


def _perceptual(options: argparse.Namespace, left_out: dict[str, str]) -> Perceptual | None:
    """LPIPS; without its weights here it is left out, unless it was asked for: then they are fetched."""
    from fluxflow_exp.losses.perceptual import Perceptual, cached_file

    net, file = options.lpips_net, options.lpips_weights
    if not options.metrics and file is None and not cached_file(net).is_file():
        left_out["lpips"] = f"{cached_file(net)} is not there; --metrics lpips fetches it"
        return None
    try:
        return Perceptual(net=net, weights_file=file)
    except ValueError as error:
        raise UserError(
            f"--metrics lpips: {str(error).replace('perceptual.weights_file=', '--lpips-weights ')}"
        ) from error


def _machine(options: argparse.Namespace) -> Machine:
    from fluxflow_exp.config.schema import Hardware
    from fluxflow_exp.machine.hardware import prepare
    from fluxflow_exp.preflight.hardware import hardware_problems

    hardware = Hardware(
        name=options.device, device=options.device, precision=options.precision, tf32=False, compile=False
    )
    problems = hardware_problems(hardware)
    if problems:
        raise UserError(*(problem.replace("hardware=", "--device ") for problem in problems))
    machine: Machine = prepare(hardware)
    return machine


def _wanted(options: argparse.Namespace, chosen: list[str], subject: Subject) -> Wanted:
    """With the run's own sampler steps and guidance where the options have none."""
    from fluxflow_exp.evaluation.evaluator import Wanted
    from fluxflow_exp.models.text_to_image import UNGUIDED

    frozen = typed(subject.values).evaluation
    flow = subject.facts["flow"]
    guides = flow is not None and flow["cfg_dropout_prob"] > 0
    guidance = options.guidance or ([1.0, frozen.guidance_scale] if guides else [1.0])
    if not guides and any(scale != 1 for scale in guidance) and flow is not None:
        print(UNGUIDED, file=sys.stderr)
    interval, shift = options.guidance_interval or frozen.guidance_interval, options.shift or frozen.shift
    if options.guidance_interval and all(scale == 1 for scale in guidance):
        raise UserError("--guidance-interval acts on guidance other than 1 alone: add --guidance, or leave it out")
    return Wanted(
        metrics=chosen,
        raw=options.raw,
        guidance=list(dict.fromkeys(guidance)),
        guidance_interval=None if interval == [0, 1] else interval,
        images=options.images,
        steps=options.steps or frozen.steps,
        sampler=options.sampler or frozen.sampler,
        shift=None if flow is None or shift == flow["shift"] else shift,
        seed=options.seed,
        features=options.features,
        data=options.overrides,
        within=options.within,
        training_images=options.training_images or frozen.training_images,
    )


def _evaluator(subject: Subject, wanted: Wanted, machine: Machine, perceptual: Any, clip: str | None) -> Evaluator:
    from fluxflow_exp.evaluation.clip import ClipScore
    from fluxflow_exp.evaluation.evaluator import Evaluator

    loaded = ClipScore(clip, machine.device) if clip and "clip_score" in wanted.metrics else None
    return Evaluator(subject, wanted, machine, perceptual=perceptual, clip=loaded)


@failures.command
def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_intermixed_args(arguments)
    wrong = problems(options)
    if wrong:
        raise UserError(*wrong)
    records, left_out, subject, pictures = evaluate(options)
    print(record.table(records))
    for said in record.remarks(map(asdict, records)):
        print(said)
    for each in records:
        if each.nearest:
            print(f"guidance {each.guidance:g}, {'averaged' if each.ema else 'raw'} weights: {each.nearest['said']}")
    if options.json:
        files.write_json(options.json, {"results": [asdict(each) for each in records], "left_out": left_out})
    if subject.run:
        try:
            record.write(subject.run.path / record.FOLDER / f"{subject.name}.json", subject.file, records)
            record.write_pictures(subject.run.path / record.FOLDER, pictures)
        except OSError as error:
            if not options.json:
                raise UserError(f"{failures.of_file(error)}. --json FILE keeps the numbers elsewhere") from error
            print(f"Note: {failures.of_file(error)}; the numbers are in {options.json} alone")
            return 0
        report = shlex.join(["python", "-m", "fluxflow_exp.report", str(subject.run.path)])
        print(f"Kept in {subject.run.path / record.FOLDER}; {report} puts it on the card")
    return 0


if __name__ == "__main__":
    sys.exit(main())
