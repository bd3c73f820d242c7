"""Terms: the named values that a loss returns, one a sample, so that no micro-batch changes an average.

A loss of your own is a class whose instances are called with tensors, return such terms, and say in `weights` how each
term counts in the sum. A step trains it under any further key of its trainer in the YAML:

    class EdgeLoss:
        def __init__(self, *, weight: float = 0.1) -> None:
            self.weights = {"edge": weight}

        def __call__(self, reconstruction: Tensor, images: Tensor) -> Terms:
            return {"edge": per_sample((edges(reconstruction.float()) - edges(images.float())).abs())}

An AutoencoderTrainer calls it with reconstructions and images, both (micro-batch, 3, height, width) in [-1, 1], on the
device; a FlowTrainer with what its objective gets: prediction, data, noise and times. It must be a function of these
alone, sample by sample: draw nothing at random, keep nothing from call to call, read no number back (`.item()`).
"""

import inspect
from collections.abc import Container, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from fluxflow_exp.errors import UserError

Terms = dict[str, Tensor]
"""Name → (batch,) float32 values, unweighted."""
Weights = dict[str, float | Tensor]
"""Name → how its term counts in the sum; a term without weight is measured alone."""


class Loss(Protocol):
    weights: dict[str, float]  # of every term that it gives

    def __call__(self, *tensors: Any, **options: Any) -> Terms: ...


def per_sample(values: Tensor) -> Tensor:
    """Mean over all but the first dimension: (batch, …) → (batch,)."""
    return values.flatten(1).mean(1)


def names(losses: Mapping[str, Loss], taken: Container[str], given: Sequence[str] | None) -> dict[str, str]:
    """Term → key of the loss that gives it.

    UserError: a loss has no weights, a term has the name of another one, or a loss cannot be called with the tensors
    that its step has, `given` by their names. None: they are not known.
    """
    found: dict[str, str] = {}
    for key, loss in losses.items():
        weights = getattr(loss, "weights", None)
        if not isinstance(weights, dict) or not weights:
            raise UserError(
                f"trainer.{key}: {type(loss).__name__} needs `weights`: its terms' names, and their weights"
            )
        for term in weights:
            if term in taken or term in found:
                raise UserError(f"trainer.{key}: there is another {term!r}: give this term its own name in `weights`")
            found[term] = key
        if given is None:
            continue
        try:
            inspect.signature(getattr(loss, "forward", loss)).bind(*given)  # a torch module's own call takes anything
        except TypeError as error:
            raise UserError(
                f"trainer.{key}: this step calls it with {', '.join(given)}, which {type(loss).__name__} does not take "
                f"({error})"
            ) from error
    return found


def computed(losses: Mapping[str, Loss], *tensors: Tensor) -> tuple[Terms, Weights]:
    """Terms, in float32, and weights of all `losses` of `tensors`. UserError: a loss gives others than it says."""
    terms: Terms = {}
    weights: Weights = {}
    for key, loss in losses.items():
        found, shape = loss(*tensors), (len(tensors[0]),)
        if not isinstance(found, Mapping):
            raise UserError(f"trainer.{key} must give a dict of terms (name → {shape} tensor), not a {_kind(found)}")
        if found.keys() != loss.weights.keys() or not all(_is_term(value, shape) for value in found.values()):
            gives = ", ".join(f"{name} {_said(value)}" for name, value in found.items()) or "nothing"
            raise UserError(f"trainer.{key} must give {shape} values of {', '.join(loss.weights)}, not {gives}")
        terms |= {name: value.float() for name, value in found.items()}
        weights |= loss.weights
    return terms, weights


def _is_term(value: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(value, Tensor) and value.shape == shape and value.is_floating_point()


def _said(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {_kind(value)}"
    return f"{tuple(value.shape)}" + (
        "" if value.is_floating_point() else f" of {value.dtype}, which is not floating point"
    )


def _kind(value: Any) -> str:
    return type(value).__name__
