"""Peak memory and time of an update of each autoencoder stage, on built-in drawings.

    python docs/benchmarks/memory.py model=fluxflow hardware=h200 data.img_size=512

One row a mode: reconstruction alone; with LPIPS (random VGG16 weights: the same memory); with GAN; GAN-only; each with
and without SPADE. Extra arguments are overrides.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from fluxflow_exp.config import instantiate, resolve, typed
from fluxflow_exp.console import Console
from fluxflow_exp.hardware import prepare
from fluxflow_exp.overrides import compose_config
from fluxflow_exp.pipeline import Pipeline, build_data
from fluxflow_exp.plan import length
from fluxflow_exp.run_folder import RunFolder

BATCH, UPDATES = 4, 4
LPIPS = [
    "+stage.steps.{0}.trainer.perceptual._target_=fluxflow_exp.losses.perceptual.Perceptual",
    "+stage.steps.{0}.trainer.perceptual.pretrained=false",
]
SPADE = ["stage.spade=true", "stage.steps.{0}.trainer.spade=always"]
MODES: dict[str, tuple[str, list[str]]] = {
    "VAE": ("vae", []),
    "VAE + LPIPS": ("vae", LPIPS),
    "VAE + GAN": ("vae_gan", []),
    "VAE + GAN + LPIPS": ("vae_gan", LPIPS),
    "VAE + GAN + LPIPS + SPADE": ("vae_gan_spade", LPIPS),
    "GAN-only": ("gan_only", []),
    "GAN-only + SPADE": ("gan_only", SPADE),
}


def main() -> None:
    print(f"{'mode':<28}{'peak GiB':>10}{'with R1':>10}{'s/update':>10}")
    for name, (stage, extra) in MODES.items():
        try:
            peak, first, seconds = measure(stage, [line.format(stage) for line in extra])
            print(f"{name:<28}{peak:>10.2f}{first:>10.2f}{seconds:>10.3f}", flush=True)
        except torch.OutOfMemoryError:
            print(f"{name:<28}{'out of memory':>20}", flush=True)


def measure(stage: str, extra: list[str]) -> tuple[float, float, float]:
    """Peak GiB of plain updates and of the first (with R1, where there is a GAN), and a plain one's median seconds."""
    sizes = [f"stage.steps.{stage}.batch_size={BATCH}", "data.n_images=64"]
    start = [f"stage.steps.{stage}.trainer.adversarial.start=0"] if stage != "vae" else []
    values = resolve(compose_config([f"stage={stage}", *sizes, *start, *extra, *sys.argv[1:]]))
    config = typed(values)
    machine = prepare(config.hardware)
    data = build_data(config)
    lengths = {name: length(step, data[name], config) for name, step in config.stage.steps.items()}
    with tempfile.TemporaryDirectory() as scratch:
        peak_memory()  # forget what came before
        folder = RunFolder(Path(scratch))
        pipeline = Pipeline(config, folder, machine, Console(), lengths, data)
        step = config.stage.steps[stage]
        trainer: Any = instantiate(step.trainer, setup=pipeline.setup(1, stage, step, []))
        times = []
        for batch in trainer.batches(0, UPDATES):
            if trainer.update_index == 1:
                first = peak_memory()
            started = time.perf_counter()
            trainer._update(batch)
            times.append(time.perf_counter() - started)
            trainer.update_index += 1
        peak = peak_memory()
    return peak, first, statistics.median(times[1:])


def peak_memory() -> float:
    """GiB since the last call; not a number without a GPU."""
    if not torch.cuda.is_available():
        return float("nan")
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return peak


if __name__ == "__main__":
    main()
