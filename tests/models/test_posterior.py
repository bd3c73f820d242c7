"""Which images have a posterior."""

import pytest
import torch

from fluxflow_exp.models.compact_vae import Compressor
from fluxflow_exp.models.posterior import check_sides


def test_sides_that_a_compressor_cannot_halve_so_often_are_refused() -> None:
    check_sides(torch.zeros(1, 3, 8, 16), 8)
    with pytest.raises(ValueError, match="image sides must be multiples of 8, not 12x16"):
        check_sides(torch.zeros(1, 3, 16, 12), 8)
    compressor = Compressor(widths=[4, 4], vae_dim=2, blocks=1, activation="silu")
    with pytest.raises(ValueError, match="image sides must be multiples of 4, not 8x6"):
        compressor(torch.zeros(1, 3, 6, 8))
