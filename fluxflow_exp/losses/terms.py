"""What a loss returns: named terms, one value a sample, so that no micro-batch changes an average."""

from torch import Tensor

Terms = dict[str, Tensor]
"""Name → (batch,) float32 values, unweighted."""


def per_sample(values: Tensor) -> Tensor:
    """Mean over all but the first dimension: (batch, …) → (batch,)."""
    return values.flatten(1).mean(1)
