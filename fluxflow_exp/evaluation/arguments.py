"""The arguments of `python -m fluxflow_exp.evaluate`."""

import argparse
import math
import re
from pathlib import Path

from fluxflow_exp.config import published
from fluxflow_exp.evaluation import measures

EXAMPLES = """examples:
  python -m fluxflow_exp.evaluate outputs/quickstart                          all that can be measured here
  python -m fluxflow_exp.evaluate outputs/quickstart --raw --guidance 1 4 7   raw weights, too, at several guidances
  python -m fluxflow_exp.evaluate outputs/vae --metrics psnr ssim lpips       these, or why not
  python -m fluxflow_exp.evaluate outputs/vae/weights/vae.safetensors --metrics rfd --features facebook/dinov2-small
  python -m fluxflow_exp.evaluate outputs/full data.data_path=/elsewhere      the data have moved

exit code: 0 measured; 2 something is wrong, and what. psnr, flow and prompt_accuracy need no further packages, others
pip install "fluxflow-exp[eval]"; lpips needs classifier weights, clip_score a --clip."""

_SAMPLED = [name for name, measure in measures.MEASURES.items() if measure.of == "samples"]
# Options that act on some metrics alone → these.
TAKERS = {
    **dict.fromkeys(("--guidance", "--guidance-interval", "--steps", "--sampler", "--shift", "--seed"), _SAMPLED),
    "--features": list(measures.SETS),
    "--training-images": ["copies"],
    "--within": [name for name in measures.SETS if name.startswith("retrieval")],
    "--clip": ["clip_score"],
    "--lpips-net": ["lpips"],
    "--lpips-weights": ["lpips"],
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.evaluate",
        description="Measure a trained model on the held-out images of its run: reconstructions, flow loss, samples.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add(
        "source",
        type=Path,
        metavar="RUN|WEIGHTS",
        help="run folder (its final weights), or one of its weights/*.safetensors",
    )
    add("overrides", nargs="*", metavar="data.KEY=VALUE", help="other data than the run's, said with each number")
    add("--metrics", nargs="+", metavar="NAME", help=f"of {', '.join(measures.MEASURES)}; default: all that can be had")
    add("--raw", action="store_true", help="raw weights as well as averaged ones")
    add("--guidance", nargs="+", type=float, metavar="SCALE", help="of samples; default: 1 and the run's own")
    add(
        "--guidance-interval", nargs=2, type=float, metavar=("LOW", "HIGH"),
        help="times that are guided, 1 is noise (0 1: all); default: the run's own",
    )  # fmt: skip
    add("--images", type=int, default=256, metavar="N", help="held-out images, and samples (default 256)")
    add("--steps", type=int, help="sampler steps; default: the run's own")
    add("--sampler", choices=("euler", "heun", "ab2"), help="default: the run's own")
    add("--shift", type=float, help="of the sampler's times; default: the run's own")
    add("--seed", type=int, default=0, help="of the noise (default 0, whatever the run's own)")
    add(
        "--features", default=measures.EFFICIENTNET, metavar="NAME_OR_FOLDER",
        help="network that sets of images are compared in: efficientnet_lite0 (default; needs no hub), inception, a "
        "timm or Hugging Face image model",
    )  # fmt: skip
    add(
        "--within", metavar="PATTERN",
        help="retrieval among the images alone in whose captions this regular expression finds the same",
    )  # fmt: skip
    add("--training-images", type=int, metavar="N", help="that copies looks through at most; default: the run's own")
    add("--clip", metavar="NAME_OR_FOLDER", help="CLIP of clip_score")
    add("--lpips-net", choices=("alex", "vgg", "squeeze"), default="alex", help="classifier of lpips (default alex)")
    add("--lpips-weights", metavar="FILE", help="torchvision's weights of it; default: the torch hub cache")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (default auto)")
    add("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="of the model (default fp32)")
    add("--config", type=Path, metavar="FILE", help="config.yaml of the run, for weights outside of one")
    add("--trust", action="append", default=[], metavar="WORD", help=published.TRUST)
    add("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    return made


def problems(options: argparse.Namespace) -> list[str]:
    """What is wrong with the values of `options` (of `parser`), whatever is to be measured."""
    counts = {"--images": options.images, "--steps": options.steps, "--training-images": options.training_images}
    found = [
        f"{name} must be at least 1, not {count}" for name, count in counts.items() if count is not None and count < 1
    ]
    found += [
        f"{word} is no data.KEY=VALUE; several words to trust are {published.trusting([*options.trust, word])}"
        for word in options.overrides
        if options.trust and "=" not in word
    ]
    found += [f"--guidance {scale} is no number" for scale in options.guidance or [] if not math.isfinite(scale)]
    if options.shift is not None and not 0 < options.shift < math.inf:
        found.append(f"--shift must be a positive number, not {options.shift}")
    if options.guidance_interval:
        from fluxflow_exp.samplers import interval_problem

        wrong = interval_problem(options.guidance_interval)
        found += [f"--guidance-interval {wrong}"] if wrong else []
    try:
        re.compile(options.within or "")
    except re.error as error:
        found.append(f"--within {options.within!r} is no regular expression: {error}")
    return found
