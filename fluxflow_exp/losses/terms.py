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

from collections.abc import Container, Mapping
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


def names(losses: Mapping[str, Loss], taken: Container[str]) -> dict[str, str]:
    """Term → key of the loss that gives it. UserError: a loss has no weights, or a term the name of another one."""
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
    return found


def computed(losses: Mapping[str, Loss], *tensors: Tensor) -> tuple[Terms, Weights]:
    """Terms and weights of all `losses` of `tensors`. UserError: a loss gives others than it says."""
    terms: Terms = {}
    weights: Weights = {}
    for key, loss in losses.items():
        found, count = loss(*tensors), len(tensors[0])
        wrong = sorted(name for name, values in found.items() if values.shape != (count,))
        if found.keys() != loss.weights.keys() or wrong:
            gives = ", ".join(f"{name} {tuple(values.shape)}" for name, values in found.items())
            raise UserError(f"trainer.{key} must give ({count},) values of {', '.join(loss.weights)}, not {gives}")
        terms |= found
        weights |= loss.weights
    return terms, weights
