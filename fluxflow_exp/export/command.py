"""`python -m fluxflow_exp.export`: a trained model for diffusers or ComfyUI, without this package."""

import argparse
import math
import os
import re
import shutil
from pathlib import Path

from fluxflow_exp.errors import UserError
from fluxflow_exp.preflight.idle import idle_problems
from fluxflow_exp.run import failures


@failures.command
def cli() -> None:
    arguments = parser().parse_args()
    output, licence = arguments.output, arguments.license
    if licence is not None and not re.fullmatch(r"[\w.+-]+", licence):
        raise UserError(f"--license is one word as the Hugging Face hub lists them, e.g. mit or other, not {licence!r}")
    if os.path.lexists(output) and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"{output} is there already: name a folder that is not, or remove it first")
    from fluxflow_exp.export import to_comfyui, to_diffusers  # torch, which --help does without
    from fluxflow_exp.export.source import read

    write = {"diffusers": to_diffusers.write, "comfyui": to_comfyui.write}[arguments.to]
    print(f"Reading {arguments.source}")
    scale = getattr(arguments, "lora_scale", None)
    idle = idle_problems({"--lora_scale": scale}, acts=arguments.lora is not None, needs="--lora")
    if idle:
        raise UserError(*idle)
    scale = 1.0 if scale is None else scale
    if not math.isfinite(scale):
        raise UserError(f"--lora_scale must be a finite number, not {scale}")
    source = read(arguments.source, kind=arguments.weights, adapter=arguments.lora, adapter_scale=scale)
    temporary = output.absolute().with_name(f"tmp-{os.getpid()}-{output.absolute().name}")
    with failures.output("Name an OUT that can be written, or free space"):
        try:
            temporary.mkdir(parents=True)
            said = write(source, temporary, output, licence=licence)
            temporary.replace(output.absolute())
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    print(said)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.export",
        description="Write a trained model as a folder that generates where this package is not installed: the same "
        "pictures as fluxflow-generate.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("source", type=Path, metavar="RUN", help="a run folder, or a weights/final.safetensors")
    made.add_argument("output", type=Path, metavar="OUT", help="the folder to write; it must not be there, or be empty")
    made.add_argument(
        "--to", required=True, choices=("diffusers", "comfyui"), help="a pipeline folder, or a folder of custom_nodes"
    )
    made.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged, or as last trained")
    made.add_argument(
        "--lora", type=Path, metavar="RUN", help="an adapter to merge: a run folder, or weights/STEP.lora.safetensors"
    )
    made.add_argument("--lora_scale", type=float, default=argparse.SUPPRESS, help="strength of --lora (default: 1)")
    made.add_argument("--license", metavar="NAME", help="of the model, for its card: e.g. mit, cc-by-4.0, other")
    return made
