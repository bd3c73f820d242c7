"""An autoencoder of diffusers that was trained here, to a folder that the library loads."""

import math
import os
import shutil
from pathlib import Path
from typing import Any

from fluxflow_exp.config.autoencoder import HALVES
from fluxflow_exp.convert.weights import holders_of
from fluxflow_exp.errors import UserError
from fluxflow_exp.models import weights
from fluxflow_exp.run import lookup

TARGETS = dict(zip(("compressor", "expander"), HALVES, strict=True))


def convert(source: Path, output: Path, *, scaling_factor: float | None = None) -> list[str]:
    """Write the averaged weights of `source`, a run or file of ours, to the folder `output`; return what to say of it.

    `scaling_factor` is one over the deviation of its latents; None: its configuration's. UserError: it cannot be done.
    """
    if scaling_factor is not None and not 0 < scaling_factor < math.inf:
        raise UserError(f"--scaling_factor must be a positive number, not {scaling_factor}")
    if output.exists():
        raise UserError(f"{output} exists; remove it or name another folder")
    source = lookup.weights(source, parts=TARGETS)
    try:
        holders = holders_of(source, tuple(TARGETS))
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
        config |= {} if scaling_factor is None else {"scaling_factor": scaling_factor}
        made = diffusers_vae.whole(config, states["compressor"], states["expander"])
    except ValueError as error:
        raise UserError(str(error)) from error
    _save(made, output)
    kind, factors = config["_class_name"], [made.config.scaling_factor, made.config.get("shift_factor")]
    return [
        f"{output}: {kind}, {len(made.state_dict())} tensors",
        f"use it: diffusers.{kind}.from_pretrained({str(output)!r}), or here model.autoencoder.path={output}",
        f"its scaling_factor is {factors[0]}, its shift_factor {factors[1]}",
        *(
            []
            if scaling_factor
            else ["where its encoder was trained: --scaling_factor X, one over the run's latent_std"]
        ),
    ]


def _save(model: Any, output: Path) -> None:
    """Let `output` be whole or not there."""
    unfinished = output.with_name(f"tmp-{os.getpid()}-{output.name}")
    try:
        model.save_pretrained(unfinished)
        unfinished.replace(output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
