"""LoRA (Hu et al. 2021, arXiv 2106.09685): a linear layer W gets W + alpha/rank · B·A, of which A and B are trained.

peft puts the two into a part. Everything else here is of an adapter's tensors alone: what players train and average,
checkpoints keep, and `<step>.lora.safetensors` publishes, named as peft and diffusers name them,
`<part>.<layer>.lora_A.weight` (rank, in) and `….lora_B.weight` (out, rank). Nothing of peft is needed to use them.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from fluxflow_exp import files
from fluxflow_exp.evaluation import digests
from fluxflow_exp.models import tensor_files
from fluxflow_exp.models.weights import State

KEY = "fluxflow_exp_lora"
TARGETS = ("flow_processor.blocks.*", "text_encoder.*")  # by default: all linear layers of blocks
SUFFIX = ".lora.safetensors"
NAME = "default"  # of the one adapter that a layer has, for peft
DOWN, UP = "lora_A", "lora_B"
LACKING = (
    'LoRA needs peft, which is not installed: pip install "fluxflow-exp[finetune]". Without it a whole model can be '
    "trained on (stage=finetune)"
)


class AdapterError(ValueError):
    """A file that is no adapter, or not of this model."""


_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


# One field for each key of the metadata's JSON.
@dataclass
class Facts:
    """What an adapter's file says beside its tensors."""

    rank: Annotated[int, Field(ge=1, le=2**16)]
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    targets: list[str]
    base: dict[str, _Digest]  # part → digest of the weights it was trained on
    format: Literal[1] = 1


def installed() -> bool:
    return find_spec("peft") is not None


def layers(part: str, module: nn.Module, targets: Iterable[str]) -> list[str]:
    """Names of the linear layers of a part that patterns like `flow_processor.blocks.*.mlp.*` (fnmatch) pick."""
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and any(fnmatchcase(f"{part}.{name}", pattern) for pattern in targets)
    ]


class Adapter(nn.Module):
    """A and B of every adapted layer of a part, under the layers' names; the part, which keeps its weights, holds the
    same tensors. As B is 0 at first, it computes what it did before."""

    def __init__(self, part: nn.Module, *, rank: int, alpha: float, names: list[str]) -> None:
        """`part` is changed in place. ImportError: there is no peft."""
        from peft import LoraConfig, inject_adapter_in_model

        super().__init__()
        self.scale = alpha / rank
        self._part = [part]  # in a list it is no sub-module
        wanted = "|".join(map(re.escape, names))
        made = LoraConfig(r=rank, lora_alpha=alpha, target_modules=wanted, lora_dropout=0.0, bias="none")
        inject_adapter_in_model(made, part, adapter_name=NAME)
        for name in names:
            layer: Any = part.get_submodule(name)
            layer.cast_input_dtype_enabled = False  # autocast sees to it
            place: nn.Module = self
            for word in name.split("."):
                if word not in dict(place.named_children()):
                    place.add_module(word, nn.Module())
                place = place.get_submodule(word)
            place.add_module(DOWN, layer.lora_A[NAME])
            place.add_module(UP, layer.lora_B[NAME])

    def initialise(self, source: torch.Generator) -> None:
        """A anew from `source` on the CPU, uniform as peft draws it; B at 0."""
        for name, parameter in self.named_parameters():
            if DOWN in name:
                bound = math.sqrt(1 / parameter.shape[1])  # Kaiming's with a = sqrt(5), that of torch's linear layers
                drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=source)
                parameter.data.copy_(drawn)
            else:
                nn.init.zeros_(parameter)

    def base(self) -> State:
        """The part's own tensors by their names of before."""
        state = self._part[0].state_dict()
        return {name.replace(".base_layer.", "."): each for name, each in state.items() if f".{NAME}." not in name}

    def merged(self) -> State:
        """The part's tensors as they would be without an adapter, for the same outputs."""
        return merged(self.base(), self.state_dict(), scale=self.scale)


@torch.no_grad()
def merged(base: State, adapter: State, *, scale: float) -> State:
    """`base` with scale · B·A added to the weights that `adapter` names; those are new tensors, of float32 sums."""
    found = dict(base)
    for name, down in adapter.items():
        if not name.endswith(f".{DOWN}.weight"):
            continue
        layer = name.removesuffix(f".{DOWN}.weight")
        weight, up = base[f"{layer}.weight"], adapter[f"{layer}.{UP}.weight"]
        change = (up.float() @ down.float()) * scale
        found[f"{layer}.weight"] = (weight.float() + change.to(weight.device)).to(weight.dtype)
    return found


def publish(path: Path, adapters: dict[str, State], facts: Facts) -> None:
    """Write the tensors of `adapters` (part → A and B) with `facts` to `path`, atomically."""
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().contiguous().clone()
        for part, state in adapters.items()
        for name, tensor in state.items()
    }
    metadata = {KEY: json.dumps(vars(facts), sort_keys=True)}
    files.write_atomically(path, lambda temporary: tensor_files.write(temporary, tensors, metadata))


def file_of(path: Path) -> Path:
    """The adapter's file that `path` means: of a run folder the only one. AdapterError: it has none, or several."""
    if not path.is_dir():
        return path
    found = sorted(files.matching(files.weights_folder(path), f"*{SUFFIX}"))
    if len(found) != 1:
        there = (
            f"several: name one of {', '.join(map(str, found))}" if found else "no adapter (weights/*.lora.safetensors)"
        )
        raise AdapterError(f"{path} holds {there}")
    return found[0]


def read(path: Path) -> tuple[Facts, dict[str, State]]:
    """Facts and tensors (part → A and B) of an adapter's file. AdapterError: it is none."""
    if not path.is_file():
        raise AdapterError(f"there is no file {path}")
    try:
        with tensor_files.opened(path) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()} if KEY in metadata else {}  # noqa: SIM118
    except ValueError as error:
        raise AdapterError(str(error)) from error
    if KEY not in metadata:
        raise AdapterError(
            f"{path} is no adapter of this package (no {KEY!r} metadata). "
            f"Give the weights/finetune{SUFFIX} of a run of stage=finetune_lora"
        )
    try:
        facts: Facts = _adapter().validate_json(metadata[KEY])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise AdapterError(f"{path}: its metadata is not as written: {where}: {first['msg']}") from error
    parts = {
        part: {name.removeprefix(f"{part}."): each for name, each in tensors.items() if name.startswith(f"{part}.")}
        for part in facts.base
    }
    return facts, parts


def apply(modules: dict[str, nn.Module], path: Path, *, scale: float) -> None:
    """Add the adapter of `path`, `scale` times, to the weights of `modules` (part → module).

    AdapterError: it is no adapter, or was trained on other weights than these.
    """
    facts, parts = read(path)
    for part, digest in facts.base.items():
        if part not in modules:
            raise AdapterError(f"{path} adapts {part!r}, which no model has")
        state = modules[part].state_dict()
        have = base_digest(state)
        if have != digest:
            raise AdapterError(
                f"{path} was trained on another model: its {part} had the digest {digest[:16]}, and this one's has "
                f"{have[:16]}. Give the model that the adapter's run started from (init_from in its config.yaml)"
            )
        adapter = parts[part]
        _check(path, state, adapter, facts.rank)
        modules[part].load_state_dict(merged(state, adapter, scale=scale * facts.alpha / facts.rank))


def base_digest(state: State) -> str:
    """The digest of a part's weights by which an adapter knows its base; hexadecimal."""
    return digests.of_tensors(state)


def _check(path: Path, state: State, adapter: State, rank: int) -> None:
    """AdapterError: the tensors of `adapter` are not pairs that fit `state`."""
    for name, tensor in adapter.items():
        layer, _, end = name.rpartition(f".{DOWN}.") if f".{DOWN}." in name else name.rpartition(f".{UP}.")
        weight = state.get(f"{layer}.weight")
        pair: list[Tensor | None] = [adapter.get(f"{layer}.{key}.weight") for key in (DOWN, UP)]
        if weight is None or end != "weight" or any(each is None for each in pair):
            raise AdapterError(f"{path}: {name} belongs to no layer of the model")
        wanted = [(rank, weight.shape[1]), (weight.shape[0], rank)] if weight.dim() == 2 else []
        if [tuple(each.shape) for each in pair if each is not None] != wanted:
            raise AdapterError(f"{path}: {name} is {tuple(tensor.shape)}, which does not fit {tuple(weight.shape)}")


@cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(Facts)
