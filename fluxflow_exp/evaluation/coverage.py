"""Precision and recall of a set of pictures (Kynkäänniemi et al. 2019), by torch-fidelity.

Precision: the share of drawn pictures that lie among real ones, each within the distance to its third nearest
neighbour. Recall: the share of real ones that lie so among drawn ones. Noise has neither; copies of a few have no
recall.

A model draws through its autoencoder. Where the held-out pictures' own reconstructions lie outside, as flat drawings
do that are blurred a little, both say what the autoencoder loses, whatever the model draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fluxflow_exp.evaluation.copies import Through
    from fluxflow_exp.evaluation.features import Features
    from fluxflow_exp.evaluation.held_out import HeldOut

NEIGHBOUR = 3
NAMES = ("precision", "recall")


def precision_recall(real: Tensor, fake: Tensor) -> dict[str, float]:
    """Both, by name, of features (n, d) and (m, d), n and m at least 4."""
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    return dict(zip(NAMES, calculate_precision_recall_part(fake, real, NEIGHBOUR), strict=True))


def of_reconstructions(held_out: HeldOut, network: Features, through: Through) -> dict[str, float]:
    """Both of the held-out pictures' own reconstructions: about the most that a model of this autoencoder can have."""
    made = [network(through(batch.images)) for batch in held_out.batches("Features of reconstructions")]
    return precision_recall(held_out.features(network), torch.cat(made))
