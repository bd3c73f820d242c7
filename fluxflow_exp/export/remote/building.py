"""How exported code makes a part of a model from its weights."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fluxflow_exp.models.weights import ASSETS


def built(make: Callable[..., nn.Module], arguments: dict[str, Any], state: dict[str, Tensor]) -> nn.Module:
    """The part that `make` builds from `arguments`, with the weights of `state`, ready to generate."""
    assets = {name: state[name] for name in ASSETS if name in state}
    part = make(**arguments, **({"assets": assets} if assets else {}))
    part.load_state_dict(state)
    return part.requires_grad_(False).eval()


def fetch(name: str, **options: Any) -> Any:
    """ValueError: a text encoder is built from what stands in its weights, and nothing is fetched."""
    raise ValueError(f"the weights lack what the text encoder {name!r} is built from: {', '.join(ASSETS)}")
