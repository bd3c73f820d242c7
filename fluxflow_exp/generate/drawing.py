"""Images from prompts and one published weights file, as options ask for them."""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.progress import track

from fluxflow_exp import __version__, files, pictures
from fluxflow_exp.config import published
from fluxflow_exp.data.captions import surrogate_in
from fluxflow_exp.data.prompts import Prompt, read_prompts, stems
from fluxflow_exp.errors import UserError, counted
from fluxflow_exp.evaluation import digests
from fluxflow_exp.machine.hardware import PRECISIONS
from fluxflow_exp.models import infotext, lora
from fluxflow_exp.models.text_to_image import UNGUIDED, TextToImage, places
from fluxflow_exp.preflight.idle import idle_problems
from fluxflow_exp.run import lookup
from fluxflow_exp.samplers import interval_problem

GRID_LIMIT = 64  # images on the grid
GUIDANCE = 5.0  # strength, where none is given


def generate(arguments: argparse.Namespace) -> None:
    """Write `<name>_gen.<format>` for each prompt, and beside the folder a grid of all. UserError: unusable input."""
    published.allow(arguments.trust)
    given = _given(arguments)
    prompts = read_prompts(arguments.text_prompts_path)
    for prompt in prompts:
        wrong = infotext.length_problem(arguments.format, prompt.text, given["negative_prompt"] or "")
        if wrong:
            raise UserError(f"--format: {prompt.stem}: {wrong}. Shorten it, or choose png or webp")
    grid = _grid(arguments)
    device = _device(arguments.device)
    model = _load(arguments, device, given["lora_scale"])
    if arguments.use_cfg and not model.trained_with_dropout:
        print(UNGUIDED, file=sys.stderr)
    wanted = [p for p in prompts for _ in range(arguments.n_per_prompt)]
    batches = -(-len(wanted) // arguments.batch_size)
    precision = PRECISIONS[arguments.precision]
    scale = given["guidance_scale"]
    sampling = {
        "guidance_scale": (GUIDANCE if scale is None else scale) if arguments.use_cfg else 1.0,
        "guidance_interval": given["guidance_interval"],
        "negative_prompt": given["negative_prompt"] or "",
        "steps": arguments.steps,
        "sampler": arguments.sampler,
        "shift": model.objective.shift if given["shift"] is None else given["shift"],
        "size": arguments.size or (model.img_size, model.img_size),
        "seed": arguments.seed,
    }
    origin = _origin(arguments, model, given["lora_scale"])
    texts = _infotexts(wanted, sampling, origin)
    try:
        arguments.output_path.mkdir(parents=True, exist_ok=True)
        made = model.generate([prompt.text for prompt in wanted], **sampling, batch_size=arguments.batch_size)
        with torch.autocast(device.type, precision, enabled=arguments.precision != "fp32"):
            sheet = _write(track(made, description="Generating", total=batches), wanted, texts, arguments)
        sheet = pictures.titled(sheet, _title(sampling, origin))
        pictures.save_picture(sheet, grid, quality=95, subsampling=0)
    except OSError as error:
        raise UserError(f"--output_path: cannot write: {error}") from error
    except ValueError as error:
        raise UserError(str(error)) from error
    print(f"{counted(len(wanted), 'image')} in {arguments.output_path}, together in {grid}")


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options that have no default of the command's, None where they were not given. UserError: one is unusable."""
    for name in ("steps", "batch_size", "n_per_prompt"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} must be at least 1, not {getattr(arguments, name)}")
    guides = ("guidance_scale", "guidance_interval", "negative_prompt")
    given = {name: getattr(arguments, name, None) for name in (*guides, "shift")}
    idle = idle_problems({f"--{name}": given[name] for name in guides}, acts=arguments.use_cfg, needs="--use_cfg")
    if idle:
        raise UserError(*idle)
    scale, shift, interval = given["guidance_scale"], given["shift"], given["guidance_interval"]
    if scale is not None and not (math.isfinite(scale) and scale >= 0):
        raise UserError(f"--guidance_scale must be a number of at least 0, not {scale}")
    wrong = interval_problem(interval) if interval is not None else None
    if wrong:
        raise UserError(f"--guidance_interval {wrong}")
    if shift is not None and not 0 < shift < math.inf:
        raise UserError(f"--shift must be a positive number, not {shift}")
    lora_scale = getattr(arguments, "lora_scale", None)
    idle = idle_problems({"--lora_scale": lora_scale}, acts=arguments.lora is not None, needs="--lora")
    if idle:
        raise UserError(*idle)
    if lora_scale is not None and not math.isfinite(lora_scale):
        raise UserError(f"--lora_scale must be a finite number, not {lora_scale}")
    given["lora_scale"] = 1.0 if lora_scale is None else lora_scale
    broken = surrogate_in(given["negative_prompt"] or "")
    if broken:
        raise UserError(f"--negative_prompt holds {broken}")
    return given


def _origin(arguments: argparse.Namespace, model: TextToImage, scale: float) -> dict[str, object]:
    """Which weights make the pictures: the file, and a digest of the tensors, of which raw ones come from others."""
    name = os.fsencode(arguments.model_checkpoint.name).decode(errors="replace")
    adapted: dict[str, object] = {}
    if arguments.lora is not None:
        adapter = os.fsencode(arguments.lora.name).decode(errors="replace")
        adapted = {"Lora hash": files.digest(arguments.lora), "Lora": adapter, "Lora scale": _plain(scale)}
    return {
        "Model hash": files.digest(arguments.model_checkpoint),
        "Model": name,
        **adapted,
        "Weights": arguments.weights,
        "Weights digest": digests.of_tensors(model.state_dict()),
        "Precision": arguments.precision,
        "Version": f"fluxflow_exp {__version__}",
    }


def _infotexts(prompts: list[Prompt], sampling: dict[str, Any], origin: dict[str, object]) -> list[str]:
    """How each image is made."""
    interval = sampling["guidance_interval"]
    shared = {
        "Steps": sampling["steps"],
        "Sampler": sampling["sampler"],
        "CFG scale": _plain(sampling["guidance_scale"]),
        **({} if interval is None else {"Guidance interval": " ".join(map(_plain, interval))}),
        "Shift": _plain(sampling["shift"]),
        "Size": "x".join(map(str, sampling["size"])),
        "Seed": sampling["seed"],
    }
    texts = [prompt.text for prompt in prompts]
    return [
        infotext.infotext(text, sampling["negative_prompt"], {**shared, "Seed index": place, **origin})
        for text, place in zip(texts, places(texts), strict=True)
    ]


def _title(sampling: dict[str, Any], origin: dict[str, object]) -> str:
    """What the grid is, read without the pictures."""
    with_adapter = f" with {origin['Lora']} at {origin['Lora scale']}" if "Lora" in origin else ""
    how = f"guidance {_plain(sampling['guidance_scale'])}, {sampling['steps']} steps of {sampling['sampler']}"
    return f"{origin['Model']}{with_adapter}: {how}, seed {sampling['seed']}, {origin['Weights']} weights"


def _plain(number: float) -> str:
    return str(number).removesuffix(".0")


def _write(
    made: Iterable[torch.Tensor], prompts: list[Prompt], texts: list[str], arguments: argparse.Namespace
) -> Image.Image:
    """Write each image; return the grid of the first ones."""
    shown: list[torch.Tensor] = []
    output, form = arguments.output_path, arguments.format
    names = [f"{stem}_gen.{form}" for stem in stems(prompts)]
    named = zip(names, texts, strict=True)
    for images in made:
        for image in images:
            name, text = next(named)
            pictures.save_picture(pictures.to_pil(image), output / name, **infotext.options(form, text))
        shown += list(images[: max(GRID_LIMIT - len(shown), 0)])
    captions = [prompt.text for prompt in prompts[: len(shown)]]
    if arguments.captions:
        pairs = [{"file_name": name, "text": prompt.text} for name, prompt in zip(names, prompts, strict=True)]
        lines = [json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs]
        files.write_text(output / "metadata.jsonl", "".join(lines))
    return pictures.captioned(torch.stack(shown), captions)


def _grid(arguments: argparse.Namespace) -> Path:
    """The picture of all images: beside their folder, which thus holds nothing but them.

    UserError: nothing can be written there.
    """
    given: Path = arguments.output_path
    folder = given if given.name not in ("", "..") else Path(os.path.abspath(given))
    there = next((each for each in folder.absolute().parents if each.exists()), folder)
    if not os.access(there, os.W_OK):
        raise UserError(
            f"--output_path: a grid of all images is to stand beside {given}, and {there} cannot be written: "
            f"name a folder inside it, as {given / 'images'}"
        )
    return folder.parent / f"{folder.name}_grid.{arguments.format}"


def _load(arguments: argparse.Namespace, device: torch.device, scale: float) -> TextToImage:
    try:
        arguments.model_checkpoint = lookup.final(arguments.model_checkpoint)
        if arguments.lora is not None:
            arguments.lora = lora.file_of(arguments.lora)
        return TextToImage.load(
            arguments.model_checkpoint, device=device, kind=arguments.weights, adapter=arguments.lora,
            adapter_scale=scale,
        )  # fmt: skip
    except lora.AdapterError as error:
        raise UserError(f"--lora: {error}") from error
    except ValueError as error:
        raise UserError(f"--model_checkpoint: {error}") from error


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine shows no CUDA GPU. Leave --device out, or give cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
