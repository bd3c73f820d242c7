"""Held-out PSNR and LPIPS of an autoencoder over training time and images: `compact` beside FluxFlow's architecture.

    python docs/benchmarks/quality.py EMOJI --model compact --seconds 60 --seeds 0 1 2 --json OUT.json [OVERRIDES…]

EMOJI is a folder with images/ and captions.tsv (docs/benchmarks/emoji_set.py); tenths are held out by sha256 of the
name, 256 × 256 pixels on white, all of them kept in memory, so that only training is timed. Each seed trains for
--seconds after its kernels are compiled; the learning rate falls to zero at the end. PSNR (the weights as they are,
the posterior's mean) over 128 held-out images is the mean of the images'. LPIPS is ST-LPIPS with AlexNet, from the
package stlpips-pytorch 0.0.2 (it needs torchsummary and ipython), which carries its trained weights.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from stlpips_pytorch import stlpips

from fluxflow_exp.config.compose import resolve, typed
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.data.build import build_data
from fluxflow_exp.data.loader import Batch, epoch_batches
from fluxflow_exp.data.reading import read_all
from fluxflow_exp.evaluation.similarity import psnr
from fluxflow_exp.machine.hardware import prepare
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.step_length import length_of
from fluxflow_exp.trainers.build import build_trainer, run_context

HELD_OUT = 128
LOOKS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0)  # shares of the training at which it is looked at
WARM_UP, RATED = 12, 40  # updates that compile, and that the rate is taken from


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("emoji", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=6e-4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    facts = {"device": device, "torch": torch.__version__, "model": options.model, "overrides": options.overrides}
    facts |= {"seconds": options.seconds, "batch": options.batch, "rate": options.rate}
    runs: list[dict[str, Any]] = []
    for seed in options.seeds:
        runs.append({"seed": seed})
        for found in run(options, seed):  # a lease may end before the last look
            runs[-1] |= found
            if options.json:
                options.json.write_text(json.dumps({**facts, "runs": runs}, indent=1))


def run(options: argparse.Namespace, seed: int) -> Iterator[dict[str, Any]]:
    overrides = [
        *("stage=vae", f"model={options.model}", "data=image_folder", "data.img_size=256", f"seed={seed}"),
        *(f"data.data_path={options.emoji / 'images'}", f"data.captions_file={options.emoji / 'captions.tsv'}"),
        *(f"stage.steps.vae.batch_size={options.batch}", f"optimizer.lr={options.rate}", "scheduler.floor=0.0"),
        *("tracking=off", "stage.steps.vae.trainer.kl.weight=1e-6", *options.overrides),
    ]
    config = typed(resolve(compose_config(overrides)))
    with tempfile.TemporaryDirectory() as scratch:
        yield from Run(config, Path(scratch), seed).train(options.seconds)


class Run:
    def __init__(self, config: Any, scratch: Path, seed: int) -> None:
        self.config, self.scratch, self.seed = config, scratch, seed
        self.machine = prepare(config.hardware)
        self.data = build_data(config)["vae"]
        self.step = config.stage.steps["vae"]
        everything = read_all(self.data.train, range(len(self.data.train)), seed=seed)
        self.images = everything.images.pin_memory() if self.machine.device.type == "cuda" else everything.images
        self.ids = everything.ids
        self.held_out = read_all(self.data.validation, range(HELD_OUT), seed=seed).images
        self.lpips = stlpips.LPIPS(net="alex", variant="shift_tolerant", verbose=False).to(self.machine.device)

    def train(self, seconds: float) -> Iterator[dict[str, Any]]:
        """Yield the findings after each look."""
        started = time.perf_counter()
        trainer = self.trainer(WARM_UP + RATED)
        compiling = self.advance(trainer, WARM_UP)
        rate = RATED / self.advance(trainer, RATED)
        updates = round(seconds * rate)
        trainer = self.trainer(updates)
        rows, used = [], 0.0
        for look in LOOKS:
            used += self.advance(trainer, round(look * updates) - trainer.update_index)
            found, target = self.reconstructions(trainer)
            row = {
                "seconds": used,
                "images": trainer.update_index * trainer.length.batch_size,
                "psnr": float(psnr(found, target).mean()),
                "lpips": self.distance(found, target),
            }
            rows.append(row)
            print(f"seed {self.seed} " + " ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
            yield {
                "parameters": sum(p.numel() for player in trainer.players.values() for p in player.parameters),
                "first_updates_seconds": compiling,
                "images_per_second": row["images"] / used,
                "wall_seconds": time.perf_counter() - started,
                "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if self.machine.device.type == "cuda" else None,
                "rows": rows,
            }

    def trainer(self, updates: int) -> Any:
        size = replace(length_of(self.step, self.data, self.config), updates=updates)
        context = run_context(self.config, RunFolder(self.scratch / str(updates)), self.machine)
        return build_trainer(self.config, "vae", context, length=size, data=self.data)

    def advance(self, trainer: Any, updates: int) -> float:
        """Seconds of so many updates, the GPU's work included."""
        started = time.perf_counter()
        for _ in range(updates):
            epoch, batch = divmod(trainer.update_index, trainer.length.updates_per_epoch)
            if batch == 0:
                self.order = epoch_batches(self.data.train, trainer.length.batch_size, seed=self.seed, epoch=epoch)
            rows = self.order[batch]
            images = self.images[rows]
            images = images.pin_memory() if self.machine.device.type == "cuda" else images
            trainer.update(Batch(images, [""] * len(rows), [self.ids[i] for i in rows], []))
            trainer.update_index += 1
            if trainer.update_index % 50 == 0:
                trainer.settle()
        trainer.settle()
        return time.perf_counter() - started

    def reconstructions(self, trainer: Any) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.compiler.set_stance("force_eager"):
            found = torch.cat([trainer.reconstruct(part) for part in torch.split(self.held_out, 16)])
        return found, trainer.machine.to_device(self.held_out)

    @torch.no_grad()
    def distance(self, found: torch.Tensor, target: torch.Tensor) -> float:
        parts = zip(torch.split(found, 16), torch.split(target, 16), strict=True)
        return float(torch.cat([self.lpips(a, b).flatten() for a, b in parts]).mean())


if __name__ == "__main__":
    main()
