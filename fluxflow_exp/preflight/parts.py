"""Checks of a model's parts, one by one and together, and of the image sizes that they can take."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fluxflow_exp import pictures
from fluxflow_exp.config import autoencoder
from fluxflow_exp.config.published import locate
from fluxflow_exp.config.schema import Model
from fluxflow_exp.data.buckets import bucket_sizes
from fluxflow_exp.errors import UserError
from fluxflow_exp.evaluation.measures import MEASURES
from fluxflow_exp.losses.perceptual import SMALLEST
from fluxflow_exp.models import diffusers_vae, weights
from fluxflow_exp.preflight import alignment
from fluxflow_exp.preflight.idle import Idle

SHARED = ("vae_dim", "text_dim")  # arguments that must be the same in all parts that have them


def problems(values: dict[str, Any]) -> list[str]:
    """One line for each thing that keeps the parts of the steps in `values` from being built or from fitting."""
    model, steps = values["model"], values["stage"]["steps"]
    needed = dict.fromkeys(part for step in steps.values() for part in _needed(step))
    outlines: dict[str, nn.Module] = {}
    found = []
    for part in needed:
        if getattr(locate(model[part]["_target_"]), "pretrained", False):
            continue  # a plan reads it, which takes long
        try:
            outlines[part] = weights.outline(model[part])
        except (ValueError, TypeError, RuntimeError) as error:  # torch has all three for numbers that it cannot take
            found.append(f"model.{part}: {error}")
    if found:
        return found
    found = _folders(model, list(needed)) + _unlike(model, list(needed)) + _unlike_scales(outlines)
    for name, step in steps.items():
        found += _sizes(step, f"stage.steps.{name}", values, outlines)
        found += alignment.problems(step, f"stage.steps.{name}", outlines, values["evaluation"])
        found += _unconditioned(step, f"stage.steps.{name}.trainer.spade", outlines)
    return list(dict.fromkeys(found))


def built(part: str, model: Model) -> nn.Module:
    """A part without values. UserError: it cannot be built, or its tokens do not fit the flow transformer."""
    try:
        module = weights.outline(getattr(model, part))
    except ValueError as error:
        raise UserError(f"model.{part}: {error}") from error
    taken = model.flow_processor.get("text_dim")
    if part == "text_encoder" and taken not in (None, width := getattr(module, "width", taken)):
        raise UserError(
            f"model.text_encoder gives tokens of {width} channels, and model.flow_processor.text_dim={taken}: "
            f"set model.text_dim={width}"
        )
    return module


def _needed(step: dict[str, Any]) -> list[str]:
    trainer = locate(step["trainer"]["_target_"])
    return [*trainer.USES, *trainer.NEEDS, *(part for player in step["optimizers"] for part in trainer.PLAYERS[player])]


def _folders(model: dict[str, Any], needed: list[str]) -> list[str]:
    """Folders of diffusers whose weights are not whole, or not those of the configuration."""
    begun = [model[part] for part in needed if autoencoder.begins_trained(model[part])]
    folders = {node["weights_path"]: node["config"] for node in begun}  # both halves are of one
    with torch.device("meta"), weights.Uninitialised():
        found = [diffusers_vae.weights_problem(config, folder) for folder, config in folders.items()]
    return [line for line in found if line]


def _unlike(model: dict[str, Any], needed: list[str]) -> list[str]:
    """Arguments that parts do not share as they must."""
    found = []
    for key in SHARED:
        given = {f"model.{part}.{key}": model[part][key] for part in needed if key in model[part]}
        if len(set(given.values())) > 1:
            shown = ", ".join(f"{name}={value}" for name, value in given.items())
            found.append(f"{shown} must be the same: model.{key} sets all of them")
    if "compressor" in needed and autoencoder.is_half(model["compressor"]):
        there = model["compressor"]["config"]["latent_channels"]
        nodes = {"": model, "flow_processor.": model["flow_processor"]}
        given = {f"model.{part}vae_dim": node.get("vae_dim", there) for part, node in nodes.items()}
        wrong = [f"{key}={value}" for key, value in given.items() if value != there]
        said = f"{wrong[0]}: the autoencoder has {there} latent channels: leave it out" if wrong else ""
        taken = "flow_processor" in needed and given["model.flow_processor.vae_dim"] != there
        found += [said if taken else Idle(said)] if wrong else []
    return found


def _unlike_scales(outlines: dict[str, nn.Module]) -> list[str]:
    down, up = (
        getattr(outlines.get(part), key, None)
        for part, key in (("compressor", "downscale"), ("expander", "upscale_by"))
    )
    if down is None or up is None or down == up:
        return []
    return [f"model.expander enlarges {up} times what model.compressor reduces {down} times"]


def _unconditioned(step: dict[str, Any], where: str, outlines: dict[str, nn.Module]) -> list[str]:
    """SPADE asked of an expander that has no such layers."""
    asked = step["trainer"].get("spade", "never")
    if asked == "never" or getattr(outlines.get("expander"), "has_spade", True):
        return []
    return [f"{where}={asked}: this expander has no SPADE layers (those of compact, fluxflow and tiny have)"]


def _sizes(step: dict[str, Any], where: str, values: dict[str, Any], outlines: dict[str, nn.Module]) -> list[str]:
    """Image sizes that the grid of the step's parts does not divide, or that something needs larger."""
    compressor, flow = outlines.get("compressor"), outlines.get("flow_processor")
    trainer = locate(step["trainer"]["_target_"])
    flows = "flow_processor" in _needed(step)
    grid = int(getattr(compressor, "downscale", 1)) * (int(getattr(flow, "patch_size", 1)) if flows else 1)
    found = []
    smallest = _smallest(step, values, outlines)
    for key, side in _sides(step["data"], values["data"], f"{where}.data"):
        if side % grid:
            found.append(f"{key} {_off(side, grid, values)}")
        found += [
            f"{key} gives images of {side} pixels a side, and {what} needs {least}"
            for what, least in smallest
            if side < least
        ]
    if trainer.CACHES:
        for size in values["samples"]["sample_sizes"] or []:
            for side in pictures.size_of(size) or ():
                if side % grid:
                    found.append(f"samples.sample_sizes={size} {_off(side, grid, values)}")
    return found


def _off(side: int, grid: int, values: dict[str, Any]) -> str:
    below = side // grid * grid
    near = f"{below} or {below + grid}" if below else str(grid)
    return f"gives {side} pixels a side, no multiple of {grid}, the grid of model={values['model']['name']}: {near}"


def _smallest(step: dict[str, Any], values: dict[str, Any], outlines: dict[str, nn.Module]) -> list[tuple[str, int]]:
    """Return what needs images of a least size, with that size in pixels."""
    found = []
    if step["trainer"].get("perceptual"):
        found.append(("trainer.perceptual", max(SMALLEST, step["trainer"]["perceptual"].get("crop") or 0)))
    if step["trainer"].get("equivariance"):
        found.append(("trainer.equivariance", 2 * int(getattr(outlines.get("compressor"), "downscale", 1))))
    if step["trainer"].get("adversarial") and "discriminator" in outlines:
        depth = values["model"]["discriminator"].get("depth")
        found += [("model.discriminator", 2**depth)] if depth else []
    if "kl" in locate(step["trainer"]["_target_"]).METRICS:
        asked = values["evaluation"]["metrics"]
        found += [(f"{name} in evaluation.metrics", MEASURES[name].least) for name in asked if MEASURES[name].least > 1]
    return found


def _sides(picked: Any, data: dict[str, Any], where: str) -> Iterator[tuple[str, int]]:
    """Key and side in pixels of each size that a step's data are trained at."""
    for key, node in _nodes(picked, data, where):
        size = node.get("img_size")
        if not isinstance(size, int):
            continue
        yield f"{key}.img_size={size}", size
        for scale in node.get("reduced_min_sizes") or []:
            yield f"{key}.reduced_min_sizes", scale
        if node.get("buckets"):
            for scale in [size, *(node.get("reduced_min_sizes") or [])]:
                for sides in bucket_sizes(scale, node["buckets"])[1:]:
                    yield from ((f"{key}.buckets={node['buckets']}", side) for side in sides)


def _nodes(picked: Any, data: dict[str, Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and node of each data set that a step reads."""
    if isinstance(picked, dict) and "_target_" in picked:
        yield where, picked
        return
    if "datasets" not in data:
        yield "data", data
        return
    chosen = data["default"] if picked is None else picked
    for name in [chosen] if isinstance(chosen, str) else list(chosen or []):
        if name in data["datasets"]:
            yield f"data.datasets.{name}", data["datasets"][name]
