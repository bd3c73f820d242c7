"""The facts in a published file's metadata: what they must be, whoever wrote them."""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from fluxflow_exp.models.tensor_files import opened

FORMAT = 1
KEY = "fluxflow_exp"  # of the metadata entry
GIVE = "Give the weights/final.safetensors of a run"
STEP_NAME = r"^[\w-][\w.-]*$"  # it names files
Facts = dict[str, Any]
_Share = Annotated[float, Field(ge=0, le=1)]
_Size = Annotated[int, Field(ge=1, le=2**16)]


@dataclass
class _Flow:
    objective: Literal["rectified_flow", "v_prediction"]
    shift: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
    cfg_dropout_prob: _Share
    teacher: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None  # that it was aligned with: its fingerprint


@dataclass
class _Model:
    """Nodes of parts; weights.node_of looks into them."""

    compressor: dict[str, Any] | None = None
    expander: dict[str, Any] | None = None
    flow_processor: dict[str, Any] | None = None
    text_encoder: dict[str, Any] | None = None
    discriminator: dict[str, Any] | None = None


# One field for each key of the metadata's JSON.
@dataclass
class _Facts:
    index: Annotated[int, Field(ge=0)]  # of the step, from 1; 0: converted
    kind: Literal["ema", "raw"]
    model: _Model
    trained: dict[str, Annotated[str, Field(pattern=STEP_NAME)]]  # part → step
    text_encoder: Literal["embed", "reference"]
    img_size: _Size | None
    downscale: _Size
    flow: _Flow | None
    # step → the update of its best point, where the file holds that instead of the last one, or weights between them
    best: dict[Annotated[str, Field(pattern=STEP_NAME)], Annotated[int, Field(ge=1)]] = field(default_factory=dict)
    last_share: Annotated[float, Field(gt=0, lt=1)] | None = None  # between them: how much is of the last ones


def read_facts(path: Path) -> Facts:
    """The facts of a published file. ValueError: missing, not safetensors, not ours, or of another format.

    It does without torch.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the file, e.g. {path}/weights/final.safetensors")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    with opened(path, framework="np") as file:
        metadata = file.metadata() or {}
    if KEY not in metadata:
        raise ValueError(f"{path} was not published by fluxflow_exp (no {KEY!r} metadata). {GIVE}")
    return parse(metadata[KEY], path)


def parse(text: str, source: object) -> Facts:
    """The facts that the metadata entry `text` of `source` says. ValueError: it says none, or of another format."""
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: its metadata is no JSON ({str(error) or type(error).__name__})") from error
    if not isinstance(found, dict) or "format" not in found:
        raise ValueError(f"{source}: its metadata holds no facts")
    if found["format"] != FORMAT:
        raise ValueError(f"{source} has weights format {found['format']}; this version reads {FORMAT}")
    try:
        _adapter().validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        where, reason = ".".join(map(str, first["loc"])), first["msg"]
        raise ValueError(
            f"{source}: its metadata is not as written: {where}: {reason[0].lower()}{reason[1:]}"
        ) from error
    return found


@cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(_Facts)


def last_share(facts: Facts, step: str) -> float | None:
    """How much of the weights is of the end of `step`, the rest of its best point; None: they are of one update."""
    found: float | None = facts.get("last_share") if step in facts.get("best", {}) else None
    return found


def moment(facts: Facts, step: str) -> str:
    """When in `step` the weights are from, for messages."""
    if step not in facts.get("best", {}):
        return "at its end"
    point, share = f"update {facts['best'][step]:,}, its best point", last_share(facts, step)
    return f"at {point}" if share is None else f"between {point}, and its end ({share:g} of the way)"
