"""PSNR against its definition."""

import pytest
import torch

from fluxflow_exp.metrics import psnr


def test_psnr_of_a_known_error():
    target = torch.zeros(2, 3, 4, 4)
    images = torch.stack([torch.full((3, 4, 4), 0.2), torch.full((3, 4, 4), 2.0)])
    assert psnr(images, target).tolist() == pytest.approx([20.0, 0.0])
    assert psnr(target, target).tolist() == pytest.approx([100.0, 100.0])
