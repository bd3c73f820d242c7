"""Predicted against measured memory and time of an update, over models, stages, sizes and micro-batches.

    python docs/benchmarks/plan.py --measure OUT.jsonl                  on a GPU; a line a configuration
    python docs/benchmarks/plan.py --measure OUT.jsonl hardware=h100    more overrides for all of them
    python docs/benchmarks/plan.py --compare OUT.jsonl                  anywhere; a table of predicted and measured

Configurations that OUT.jsonl holds already are not measured again. `peak_gib` is torch's maximum of allocated memory
over two updates after the first, `r1_peak_gib` that of an update with R1; `phases` says for each phase what a forward
pass of the last micro-batch left allocated and the phase's peak.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fluxflow_exp.config.compose import resolve, typed
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.config.schema import RunConfig
from fluxflow_exp.data.build import build_data
from fluxflow_exp.data.loader import Batch
from fluxflow_exp.machine.hardware import prepare
from fluxflow_exp.plan import roofline
from fluxflow_exp.plan.dry_run import rehearsal
from fluxflow_exp.plan.forecast import SPARE_GIB
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.step_length import length_of
from fluxflow_exp.trainers.build import build_trainer, run_context
from fluxflow_exp.trainers.phase import Phase

GIB = 2**30
LPIPS = "+loss@stage.steps.{stage}.trainer.perceptual=lpips stage.steps.{stage}.trainer.perceptual.pretrained=false"
CHECKPOINTING = "hardware.activation_checkpointing=true"
SMALL = "hardware.micro_batch.autoencoder={}"
# model, stage, image size, batch size, further overrides
CONFIGURATIONS: list[tuple[str, str, int, int, str]] = [
    ("compact", "vae", 256, 32, ""),
    ("compact", "vae_gan", 256, 32, ""),
    ("compact", "vae_gan", 256, 32, LPIPS),
    ("compact", "vae_gan", 256, 32, SMALL.format(8)),
    ("compact", "gan_only", 256, 32, ""),
    ("compact", "vae_gan_spade", 256, 32, LPIPS),
    ("compact", "vae_gan_spade", 512, 16, f"{LPIPS} {CHECKPOINTING}"),
    ("compact", "vae", 256, 32, "model.activation=silu"),
    ("compact", "vae", 256, 16, "hardware.precision=fp32"),
    ("compact", "flow", 256, 128, ""),
    ("compact", "flow", 512, 64, "hardware.micro_batch.flow=32"),
    ("compact", "flow", 512, 64, CHECKPOINTING),
    ("compact", "flow", 256, 128, "model.flow_processor.width=768 model.flow_processor.heads=12"),
    ("fluxflow", "vae", 512, 4, ""),
    ("fluxflow", "vae", 512, 4, LPIPS),
    ("fluxflow", "vae_gan", 512, 4, ""),
    ("fluxflow", "vae_gan_spade", 512, 4, LPIPS),
    ("fluxflow", "vae_gan_spade", 1024, 4, f"{LPIPS} {CHECKPOINTING} {SMALL.format(1)}"),
    ("fluxflow", "gan_only", 512, 4, SMALL.format(2)),
    ("fluxflow", "flow", 512, 16, ""),
    ("fluxflow_silu", "vae", 512, 4, LPIPS),
    ("fluxflow_silu", "vae_gan", 512, 8, SMALL.format(4)),
    ("tiny", "vae_gan", 64, 64, ""),
    ("tiny", "flow", 64, 256, ""),
]
PLAIN, WITH_R1 = (1, 2, 3), 16  # numbers of the updates; R1 is due in every 16th


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--measure", type=Path, metavar="OUT.jsonl")
    action.add_argument("--compare", type=Path, metavar="OUT.jsonl")
    parser.add_argument("--card", type=float, default=24.0, metavar="GIB", help="does each fit a card of this size?")
    parser.add_argument("overrides", nargs="*", help="for all configurations, e.g. hardware=h100")
    options = parser.parse_args()
    if options.compare:
        compare([json.loads(line) for line in _lines(options.compare)], card=options.card)
        return
    known = [json.loads(line)["overrides"] for line in _lines(options.measure)]
    for each in CONFIGURATIONS:
        overrides = overrides_of(*each)
        if overrides in known:
            continue
        row = {"overrides": overrides, "with": options.overrides, "gpu": torch.cuda.get_device_name()}
        row |= {"torch": torch.__version__} | measure_or_fail(each[1], [*overrides, *options.overrides])
        with options.measure.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def compare(rows: list[dict[str, Any]], *, card: float) -> None:
    """Print a line a measured row; exit code 1 if a peak is off by more than a tenth, or a fit is wrong."""
    wrong = 0
    print(f"{'predicted':>10}{'measured':>10}{'error':>8}  {f'fits {card:g} GiB':<14}{'seconds':>20}  configuration")
    for row in rows:
        if "peak_gib" not in row:
            print(f"{'out of memory':>20}  {' '.join(row['overrides'])}")
            continue
        peaks, seconds = predict([*row["overrides"], *row.get("with", [])])
        for kind, name in (("plain", "peak_gib"), ("r1", "r1_peak_gib")):
            if name not in row:
                continue
            predicted, measured = peaks[kind], row[name]
            fits = [each + SPARE_GIB <= card for each in (predicted, measured)]
            error = predicted / measured - 1
            wrong += abs(error) > 0.1 or fits[0] != fits[1]
            said = "right" if fits[0] == fits[1] else "WRONG"
            times = f"{seconds:.4f} / {row['seconds']:.4f}" if kind == "plain" else ""
            label = " ".join(row["overrides"]) + (" (R1)" if kind == "r1" else "")
            print(f"{predicted:>10.2f}{measured:>10.2f}{error:>+8.1%}  {said:<14}{times:>20}  {label}", flush=True)
    raise SystemExit(1 if wrong else 0)


def predict(overrides: list[str]) -> tuple[dict[str, float], float]:
    """Peaks in GiB of a plain update and of one with R1, and a plain one's seconds."""
    config = configuration(overrides)
    ((name, step),) = config.stage.steps.items()
    data = build_data(config)
    size = length_of(step, data[name], config)
    with rehearsal(config, name, replace(size, updates=WITH_R1 + 1), data[name]) as tried:
        costs = {kind: tried.cost(kind, size.micro_batch) for kind in tried.kinds()}
    peaks = {"r1" if "r1" in kind else "plain": each.peak / GIB for kind, each in costs.items()}
    plain = next(each for kind, each in costs.items() if "r1" not in kind)
    return peaks, roofline.seconds(plain.operations, config.hardware) or float("nan")


def configuration(overrides: list[str]) -> RunConfig:
    """One step, which reads images; nothing is logged."""
    fixed = ["hardware=h200", "hardware.num_workers=0", "tracking=off", "cache.mode=off"]
    return typed(resolve(compose_config([*fixed, *overrides])))


def overrides_of(model: str, stage: str, size: int, batch_size: int, more: str) -> list[str]:
    """The command-line overrides of a configuration."""
    step = f"stage.steps.{stage}"
    start = [f"{step}.trainer.adversarial.start=0"] if "gan" in stage else []
    return [
        f"model={model}",
        f"stage={stage}",
        f"data.img_size={size}",
        f"{step}.batch_size={batch_size}",
        *start,
        *more.format(stage=stage).split(),
    ]


def measure_or_fail(step: str, overrides: list[str]) -> dict[str, Any]:
    """Return the findings of `measure`; `out_of_memory` alone where the card is too small."""
    try:
        found = measure(step, overrides)
    except torch.OutOfMemoryError:
        found = {"out_of_memory": True}
    gc.collect()
    torch.cuda.empty_cache()
    return found


def measure(step: str, overrides: list[str]) -> dict[str, Any]:
    """Peaks in GiB and seconds of updates of `step`."""
    before = torch.cuda.memory_allocated()
    config = configuration(overrides)
    machine = prepare(config.hardware)
    data = build_data(config)
    planned = length_of(config.stage.steps[step], data[step], config)
    with tempfile.TemporaryDirectory() as scratch:
        run = run_context(config, RunFolder(Path(scratch)), machine)
        trainer: Any = build_trainer(config, step, run, length=planned, data=data[step])
        size = trainer.accumulation.micro_batch
        watched: list[dict[str, float]] = []
        watch_turns(trainer, watched)
        batch = random_batch(planned.batch_size, config.data["img_size"])
        started = time.perf_counter()
        update(trainer, batch, PLAIN[0])
        first = time.perf_counter() - started
        watched.clear()
        plain = [update(trainer, batch, index) for index in PLAIN[1:]]
        found = {"peak_gib": max(phase["peak_gib"] for phase in watched), "phases": [*watched]}
        if "discriminator" in trainer.players:
            watched.clear()
            found["r1_seconds"] = update(trainer, batch, WITH_R1)
            found["r1_peak_gib"] = max(phase["peak_gib"] for phase in watched)
        if trainer.accumulation.micro_batch != size:
            return {"out_of_memory": True}  # the trainer went on with smaller micro-batches
        kept = (torch.cuda.memory_allocated() - before) / GIB
    seconds = statistics.median(plain)
    return {**found, "seconds": seconds, "first_seconds": first, "kept_gib": kept, "before_gib": before / GIB}


def watch_turns(trainer: Any, watched: list[dict[str, float]]) -> None:
    """Note each phase's memory into `watched`: after a micro-batch's forward pass, and its peak."""
    phases, step = trainer.phases, trainer.apply

    def watched_phases() -> list[Phase]:
        torch.cuda.reset_peak_memory_stats()
        return [replace(phase, loss=forward(phase.loss)) for phase in phases()]

    def forward(loss: Any) -> Any:
        def run(*arguments: Any) -> Any:
            found = loss(*arguments)
            after.append(torch.cuda.memory_allocated() / GIB)
            return found

        return run

    def watched_step(*arguments: Any) -> None:
        backward = torch.cuda.max_memory_allocated() / GIB
        step(*arguments)
        peak = torch.cuda.max_memory_allocated() / GIB
        watched.append({"after_forward_gib": after[-1], "backward_peak_gib": backward, "peak_gib": peak})
        torch.cuda.reset_peak_memory_stats()

    after: list[float] = []
    trainer.phases, trainer.apply = watched_phases, watched_step


def update(trainer: Any, batch: Batch, index: int) -> float:
    """Seconds of the update of that number, the GPU's work included."""
    trainer.update_index = index
    torch.cuda.synchronize()
    started = time.perf_counter()
    trainer.update(batch)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    trainer.settle()
    return seconds


def random_batch(count: int, size: int) -> Batch:
    """Noise as images: what they show changes neither memory nor time. Captions have 40 bytes."""
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8).pin_memory()
    return Batch(images, ["a large red circle on a light blue ground"[:40]] * count, list(map(str, range(count))), [])


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
