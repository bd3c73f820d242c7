"""A configuration at a size that a CPU core runs in moments; what is computed stays what it is.

Widths, the batch and the images get smaller. Depths, losses, their weights, optimizers, schedules and the number of
updates stay, so that what begins late or happens seldom still does.
"""

import copy
from typing import Any

from fluxflow_exp.config import autoencoder
from fluxflow_exp.config.compose import PARTS
from fluxflow_exp.models import weights

IMAGES = 4  # an update
CHANNELS = {"vae_dim": 16, "base_channels": 8}
WIDEST = 32  # of a list of widths
HEAD = 8  # channels of an attention head
PIXELS, CROP = 32, 32  # the perceptual loss takes no less
Change = tuple[str, dict[str, Any], str, Any]  # where a node stands, the node, its key, the value to come
Changes = dict[str, tuple[Any, Any]]  # key → what it was, what it is

# Always on a CPU, in one process and in float32, where the same numbers come out bit for bit.
MACHINE = {
    "device": "cpu",
    "devices": 1,
    "parallel": "ddp",
    "gpu": None,
    "precision": "fp32",
    "exact": True,
    "micro_batch": {"autoencoder": "auto", "flow": "auto"},
    "compile": False,
    "cuda_graphs": None,
    "num_workers": 0,
}


def shrink(values: dict[str, Any]) -> tuple[dict[str, Any], Changes]:
    """The resolved configuration `values` at toy size, and what that changed."""
    toy = copy.deepcopy(values)
    toy["hardware"] |= MACHINE
    toy["hardware"]["slurm"]["nodes"] = 1
    toy["cache"] = {**toy.get("cache", {}), "mode": "off"}
    changes: Changes = {}
    for where, node, key, value in [*_widths(toy["model"]), *_steps(toy["stage"]["steps"])]:
        if node.get(key) != value:
            changes[f"{where}.{key}"] = (node.get(key), value)
            node[key] = value
    return toy, changes


def pixels(toy: dict[str, Any], step: str, *, img_size: int) -> int:
    """The side of the images that step `step` is given, whose data have `img_size`."""
    patch = toy["model"]["flow_processor"].get("patch_size", 1)
    multiple: int = weights.outline(toy["model"]["compressor"]).downscale * patch
    perceptual = toy["stage"]["steps"][step]["trainer"].get("perceptual") or {}
    least = 2 * CROP if perceptual.get("crop") else PIXELS
    return min(img_size, max(least, multiple))


def _widths(model: dict[str, Any]) -> list[Change]:
    encoder = model["text_encoder"]
    found: list[Change] = []
    for part in PARTS:
        node = model[part]
        smaller: dict[str, Any] = {key: min(node[key], most) for key, most in CHANNELS.items() if key in node}
        if autoencoder.is_half(node):
            smaller |= {"config": autoencoder.narrowed(node["config"], CHANNELS["vae_dim"]), "weights_path": None}
        if "widths" in node:
            smaller["widths"] = _scaled(node["widths"])
        if "width" in node:
            smaller["width"] = _width(node)
        if "text_dim" in node and "width" in encoder:  # a pretrained encoder's width is its own
            smaller["text_dim"] = _width(encoder)
        found += [(f"model.{part}", node, key, value) for key, value in smaller.items()]
    return found


def _width(node: dict[str, Any]) -> int:
    return min(int(node["width"]), HEAD * int(node.get("heads", 4)))


def _scaled(widths: list[int]) -> list[int]:
    if max(widths) <= WIDEST:
        return widths
    return [max(HEAD, HEAD * round(width * WIDEST / max(widths) / HEAD)) for width in widths]


def _steps(steps: dict[str, Any]) -> list[Change]:
    found: list[Change] = []
    for name, step in steps.items():
        where, perceptual = f"stage.steps.{name}", step["trainer"].get("perceptual")
        found += [(where, step, "batch_size", min(step["batch_size"], IMAGES)), (where, step, "init_from", None)]
        if perceptual:
            wanted = {"pretrained": False, "weights_file": None, "crop": CROP if perceptual.get("crop") else None}
            found += [(f"{where}.trainer.perceptual", perceptual, key, value) for key, value in wanted.items()]
        repa = step["trainer"].get("repa")
        if repa and "width" in repa:
            found.append((f"{where}.trainer.repa", repa, "width", min(repa["width"], WIDEST)))
    return found
