"""`fluxflow-generate`, the same as `python -m fluxflow_exp.generate`: its options."""

import argparse
import re
from pathlib import Path

from fluxflow_exp.config.published import TRUST
from fluxflow_exp.models import infotext
from fluxflow_exp.run import failures

# As in samplers.py and machine/hardware.py, which need torch.
SAMPLERS = ("ab2", "euler", "heun")
PRECISIONS = ("bf16", "fp16", "fp32")


@failures.command
def cli() -> None:
    arguments = parser().parse_args()
    from fluxflow_exp.generate.drawing import generate  # torch, which --help does without

    generate(arguments)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="fluxflow-generate",
        description="Make images from prompts with a trained model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = made.add_argument
    add("--model_checkpoint", required=True, type=Path, help="a run, or its weights/final.safetensors")
    add("--lora", type=Path, metavar="RUN", help="an adapter of it: its run folder, or weights/STEP.lora.safetensors")
    add("--lora_scale", type=float, default=argparse.SUPPRESS, help="strength of --lora; 0 is without (default: 1)")
    add(
        "--text_prompts_path",
        required=True,
        type=Path,
        help="a folder of .txt files (one prompt each), or one .txt file with a prompt a line",
    )
    add("--output_path", required=True, type=Path, help="folder for the images; their grid goes beside it")
    add(
        "--format",
        choices=tuple(infotext.FORMATS),
        default="webp",
        help="of the images; each says in its metadata how it was made; webp and png are lossless, jpg of quality 95",
    )
    add("--captions", action="store_true", help="write metadata.jsonl, too: the images are data for training then")
    add("--use_cfg", action="store_true", help="classifier-free guidance")
    add("--guidance_scale", type=float, default=argparse.SUPPRESS, help="strength of it, with --use_cfg (default: 5)")
    add(
        "--guidance_interval", nargs=2, type=float, default=argparse.SUPPRESS, metavar=("LOW", "HIGH"),
        help="times that are guided, with --use_cfg; 1 is noise, 0 the picture (default: all)",
    )  # fmt: skip
    add("--negative_prompt", default=argparse.SUPPRESS, help="what to steer away from, with --use_cfg")
    add("--steps", type=int, default=50, help="sampler steps")
    add(
        "--sampler",
        choices=SAMPLERS,
        default="euler",
        help="heun costs two evaluations a step; ab2 is of second order at one",
    )
    add("--shift", type=float, default=argparse.SUPPRESS, help="of the sampler's times (default: that of training)")
    add("--size", type=_size, default=None, metavar="WxH", help="pixels; default: the training size")
    add("--seed", type=int, default=0, help="of the noise")
    add("--batch_size", type=int, default=16, help="images at a time; does not change them")
    add("--n_per_prompt", type=int, default=1, help="images for each prompt")
    add("--weights", choices=("ema", "raw"), default="ema", help="averaged, or as last trained")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    add("--trust", action="append", default=[], metavar="WORD", help=TRUST)
    add("--precision", choices=PRECISIONS, default="fp32", help="of the computation")
    return made


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, e.g. 256x256")
    return int(match[1]), int(match[2])
