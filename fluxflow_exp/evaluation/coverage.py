"""Precision and recall of a set of pictures (Kynkäänniemi et al. 2019), by torch-fidelity.

Precision: the share of drawn pictures that lie among real ones, each within the distance to its third nearest
neighbour. Recall: the share of real ones that lie so among drawn ones. Noise has neither; copies of a few have no
recall.
"""

from torch import Tensor

NEIGHBOUR = 3


def precision_recall(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Features (n, d) and (m, d), n and m at least 4."""
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    precision, recall = calculate_precision_recall_part(fake, real, NEIGHBOUR)
    return precision, recall
