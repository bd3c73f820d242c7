"""An autoencoder of diffusers that was trained here, to a folder that the library loads."""

import os
import shutil
from pathlib import Path
from typing import Any

from fluxflow_exp.errors import UserError
from fluxflow_exp.models import weights

TARGETS = {part: f"fluxflow_exp.models.diffusers_vae.{part.capitalize()}" for part in ("compressor", "expander")}


def convert(source: Path, output: Path) -> list[str]:
    """Write the averaged weights of `source`, a run or file of ours, to the folder `output`; return what to say of it.

    UserError: it cannot be done.
    """
    if output.exists():
        raise UserError(f"{output} exists; remove it or name another folder")
    try:
        holders = weights.find_parts(source)
        missing = [part for part in TARGETS if part not in holders]
        if missing:
            raise ValueError(f"{source} holds no {' and no '.join(missing)}")
        nodes = {part: weights.node_of(holders[part], part, weights.read_facts(holders[part])) for part in TARGETS}
        other = [part for part, node in nodes.items() if node["_target_"] != TARGETS[part]]
        if other:
            raise ValueError(
                f"{source}: its {other[0]} is {nodes[other[0]]['_target_']}, and diffusers knows those of "
                "model/autoencoder=diffusers alone"
            )
        from fluxflow_exp.models import diffusers_vae

        states = {part: weights.read_part(holders[part], part) for part in TARGETS}
        config = nodes["expander"]["config"]
        made = diffusers_vae.whole(config, states["compressor"], states["expander"])
    except ValueError as error:
        raise UserError(str(error)) from error
    _save(made, output)
    kind, factors = config["_class_name"], [made.config.scaling_factor, made.config.get("shift_factor")]
    return [
        f"{output}: {kind}, {len(made.state_dict())} tensors",
        f"use it: diffusers.{kind}.from_pretrained({str(output)!r}), or here model.autoencoder.path={output}",
        f"scaling_factor {factors[0]} and shift_factor {factors[1]} are its config's: where the encoder was trained "
        "here, they say nothing of its latents",
    ]


def _save(model: Any, output: Path) -> None:
    """Let `output` be whole or not there."""
    unfinished = output.with_name(f"tmp-{os.getpid()}-{output.name}")
    try:
        model.save_pretrained(unfinished)
        unfinished.replace(output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
