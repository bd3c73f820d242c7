"""Seconds of an image of 1024 × 1024 pixels, 50 guided Euler steps, and the decoder's share of them.

    python docs/benchmarks/generation.py --json OUT.json [OVERRIDES…]

Random weights (time does not depend on them), bf16 autocast, images one at a time and four at a time.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from fluxflow_exp.config.compose import instantiate, resolve, typed
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.losses.flow_matching import RectifiedFlow
from fluxflow_exp.machine.hardware import prepare
from fluxflow_exp.models.text_to_image import TextToImage

REPEATS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--size", type=int, default=1024, help="pixels a side")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    config = typed(resolve(compose_config(["tracking=off", *options.overrides])))
    machine = prepare(config.hardware)
    parts = {name: instantiate(getattr(config.model, name)) for name in ("expander", "flow_processor", "text_encoder")}
    downscale = instantiate(config.model.compressor).downscale
    for part in parts.values():
        machine.place(part.eval())
    model = TextToImage(**parts, downscale=downscale, objective=RectifiedFlow(), img_size=options.size)
    rows = [measure(model, machine, count, options.steps) for count in (1, 4)]
    for row in rows:
        print(
            f"{row['images']} at a time: {row['seconds']['median']:.3f} s an image "
            f"({row['seconds']['least']:.3f} to {row['seconds']['most']:.3f}), decoder {row['decoder_share']:.1%}"
        )
    if options.json:
        facts = {"machine": machine.describe(), "torch": torch.__version__, "overrides": options.overrides}
        facts |= {"steps": options.steps, "size": options.size}
        options.json.write_text(json.dumps({**facts, "rows": rows}, indent=1))


def measure(model: TextToImage, machine: Any, count: int, steps: int) -> dict[str, Any]:
    prompts = ["a large red circle on a light blue ground"] * count

    def generate() -> float:
        started = time.perf_counter()
        with machine.autocast():
            for _ in model.generate(prompts, guidance_scale=5.0, steps=steps, batch_size=count):
                pass
        return (time.perf_counter() - started) / count

    generate()  # compiles
    seconds = [generate() for _ in range(REPEATS)]
    decoder = model.expander
    spent: list[float] = []

    def timed(latents: torch.Tensor) -> torch.Tensor:
        wait(machine)
        started = time.perf_counter()
        images: torch.Tensor = decoder(latents)
        wait(machine)
        spent.append((time.perf_counter() - started) / count)
        return images

    model.expander = Timed(timed)
    generate()
    model.expander = decoder
    median = statistics.median(seconds)
    return {
        "images": count,
        "seconds": {"median": median, "least": min(seconds), "most": max(seconds)},
        "decoder_share": spent[0] / median,
    }


class Timed(torch.nn.Module):
    def __init__(self, call: Any) -> None:
        super().__init__()
        self.call = call

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.call(latents)
        return made


def wait(machine: Any) -> None:
    if machine.device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
