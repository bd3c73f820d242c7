"""FluxFlow 0.3 weights of compressor and expander, to and from this project's files."""

from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fluxflow_exp import files
from fluxflow_exp.errors import UserError
from fluxflow_exp.models import tensor_files, weights
from fluxflow_exp.run import lookup
from fluxflow_exp.run.holders import instead

THEIRS = "flxflow_final.safetensors"
PREFIX = {"compressor": "diffuser.compressor.", "expander": "diffuser.expander."}
MIXER = "context_mixer."  # in every expander of 0.3, called by nothing
# What tells a later version by the tensors that it has, newest first.
LATER = {"film_p0": "0.8", "compressor.context_proj": "0.7", "compressor.final_norm": "0.6"}


def convert(source: Path, output: Path, *, to: str) -> list[str]:
    """Convert `source` to the file `output`; returns lines for the user. UserError: it cannot be done."""
    if output.exists():
        raise UserError(f"{output} exists; remove it or name another file")
    return _to_ours(source, output) if to == "ours" else _to_theirs(source, output)


def _to_ours(source: Path, output: Path) -> list[str]:
    path = source / THEIRS if source.is_dir() else source
    with _opened(path) as file:
        names = list(file.keys())
        _refuse_later(path, names)
        states = {
            part: {n.removeprefix(p): file.get_tensor(n) for n in _shown([n for n in names if n.startswith(p)], part)}
            for part, p in PREFIX.items()
        }
    dropped = [n for n in states["expander"] if n.startswith(MIXER)]
    for name in dropped:
        del states["expander"][name]
    nodes = _nodes(states, path)
    for part, state in states.items():
        _check(nodes[part], state, path, part)
    facts = {
        "index": 0,
        "kind": "ema",
        "model": {"name": "fluxflow", "activation": "bezier", **nodes},
        "trained": dict.fromkeys(states, "fluxflow"),
        "text_encoder": "embed",
        "img_size": None,
        "downscale": 2 ** nodes["compressor"]["downscales"],
        "flow": None,
    }
    weights.publish(output, states, facts)
    others = sorted({n.split(".")[1] if n.startswith("diffuser.") else n.split(".")[0] for n in names} - set(PREFIX))
    dim = nodes["compressor"]["vae_dim"]
    return [
        f"{output}: compressor ({len(states['compressor'])} tensors) and expander ({len(states['expander'])}), "
        f"vae_dim {dim}",
        *(f"not convertible, left out: {name} ({_reason(name)})" for name in others),
        f"use it: stage.steps.STEP.init_from={output} model=fluxflow model.vae_dim={dim}",
    ]


def _to_theirs(source: Path, output: Path) -> list[str]:
    source = lookup.weights(source, parts=PREFIX)
    try:
        holders = holders_of(source, tuple(PREFIX))
        nodes = {part: weights.node_of(holders[part], part, weights.read_facts(holders[part])) for part in PREFIX}
        states = {part: weights.read_part(holders[part], part) for part in PREFIX}
    except ValueError as error:
        raise UserError(str(error)) from error
    for part, node in nodes.items():
        if not node["_target_"].startswith("fluxflow_exp.models.fluxflow_vae.") or node.get("activation") != "bezier":
            raise UserError(
                f"{source}: its {part} is {node['_target_']} with {node.get('activation')}; FluxFlow 0.3 reads "
                "model=fluxflow with Bezier activations alone"
            )
    states["expander"] |= _mixer(nodes["expander"]["vae_dim"])
    tensors = {
        PREFIX[part] + name: tensor.contiguous()
        for part, state in states.items()
        for name, tensor in _shown(list(state.items()), part)
    }
    files.write_atomically(output, lambda temporary: tensor_files.write(temporary, tensors))
    left = sorted(set(holders) - set(PREFIX))
    return [
        f"{output}: {len(tensors)} tensors for FluxCompressor and FluxExpander of fluxflow 0.3",
        *(f"not convertible, left out: {name} ({_reason(name)})" for name in left),
    ]


def holders_of(source: Path, parts: tuple[str, ...]) -> dict[str, Path]:
    """Part → file, of a run or a file of ours that has `parts`. ValueError: some of them are not there."""
    found = weights.find_parts(source)
    missing = [part for part in parts if part not in found]
    if missing:
        beside = instead(source.parent, parts) if source.is_file() else ""
        raise ValueError(f"{source} holds no {' and no '.join(missing)}{beside}")
    return found


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from error


def _refuse_later(path: Path, names: list[str]) -> None:
    for mark, version in LATER.items():
        if any(mark in name for name in names):
            raise UserError(
                f"{path} was written by FluxFlow {version} or later (it holds …{mark}…), whose layers differ; "
                "only files of 0.3 are converted"
            )
    if not any(name.startswith(PREFIX["compressor"]) for name in names):
        raise UserError(f"{path} is no FluxFlow checkpoint (no tensor named {PREFIX['compressor']}…)")
    if not any(".spade.mlp_gamma." in name for name in names):
        raise UserError(
            f"{path} was written by a later FluxFlow (its SPADE has no mlp_gamma), which also has other activations; "
            "only files of 0.3 are converted"
        )


def _nodes(states: dict[str, weights.State], path: Path) -> dict[str, dict[str, Any]]:
    """How to build the parts, read from the shapes. UserError: they say nothing."""
    compressor, expander = states["compressor"], states["expander"]
    try:
        dim = compressor["latent_proj.0.0.weight"].shape[0] // 5
        hidden = compressor["token_attn.0.ff.2.weight"].shape[1]
    except KeyError as error:
        raise UserError(f"{path} lacks the tensor diffuser.compressor.{error.args[0]}") from error
    module = "fluxflow_exp.models.fluxflow_vae."
    shared = {"vae_dim": dim, "activation": "bezier"}
    return {
        "compressor": {
            "_target_": f"{module}Compressor",
            **shared,
            "downscales": _count(compressor, "encoder_z."),
            "attn_layers": _count(compressor, "token_attn."),
            "attn_heads": 8,  # not to be seen in the shapes; every release of FluxFlow has 8
            "attn_ff_mult": hidden // dim,
        },
        "expander": {
            "_target_": f"{module}Expander",
            **shared,
            "upscales": _count(expander, "upscale.layers."),
            "spade": True,
        },
    }


def _count(state: weights.State, prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def _check(node: dict[str, Any], state: weights.State, path: Path, part: str) -> None:
    wanted = weights.expected_shapes(node)
    have = {name: tuple(tensor.shape) for name, tensor in state.items()}
    differing = sorted(name for name in {*wanted, *have} if wanted.get(name) != have.get(name))
    if differing:
        shown = "; ".join(f"{n}: {have.get(n)} there, {wanted.get(n)} expected" for n in differing[:3])
        raise UserError(f"{path}: its {part} is not that of FluxFlow 0.3: {shown}")


def _mixer(dim: int) -> dict[str, Tensor]:
    """Tensors that FluxExpander must find and never uses: as it makes them, with zeros for what it draws."""
    zeros = {f"{name}.weight": torch.zeros(dim, dim) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
    zeros |= {name.replace("weight", "bias"): torch.zeros(dim) for name in zeros}
    norms = {f"norm_{end}.{kind}": value for end in ("in", "out") for kind, value in _norm(dim).items()}
    return {MIXER + name: tensor for name, tensor in {"cls": torch.zeros(1, 1, dim), **zeros, **norms}.items()}


def _norm(dim: int) -> dict[str, Tensor]:
    return {"weight": torch.ones(dim), "bias": torch.zeros(dim)}


def _reason(part: str) -> str:
    return {
        "flow_processor": "FluxFlow's flow transformer mixes its channels (B1) and was trained at one time (B2)",
        "text_encoder": "FluxFlow's text encoder holds re-initialised weights (B4)",
    }.get(part, "has no counterpart")


def _shown(items: list[Any], part: str) -> Any:
    return track(items, description=f"Converting {part}")
