"""Precision and recall of planted sets."""

import torch

from fluxflow_exp.evaluation.coverage import precision_recall


def test_the_same_set_noise_and_copies_of_a_few() -> None:
    source = torch.Generator().manual_seed(0)
    real = torch.randn(60, 8, generator=source)
    assert precision_recall(real, real) == {"precision": 1, "recall": 1}
    assert precision_recall(real, real + 100) == {"precision": 0, "recall": 0}
    precision, recall = precision_recall(real, real[:5].repeat(12, 1)).values()
    assert precision == 1
    assert recall < 0.2
