"""SPADE's resizing of its context, by matrix products as on a GPU, against torch's."""

import pytest
import torch
import torch.nn.functional as F

from fluxflow_exp.models.spade import Spade, resize, resize_by_products


@pytest.mark.parametrize(("height", "width"), [(8, 8), (3, 5), (12, 20), (2, 3)])
def test_resizing_by_products_is_bilinear(height: int, width: int) -> None:
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    wanted = F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
    grad = torch.randn_like(wanted)
    found = resize_by_products(x, height, width)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, grad)[0] for y in (found, wanted)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(resize(x, height, width), wanted)


def test_products_leave_channels_innermost() -> None:
    assert resize_by_products(torch.randn(2, 4, 3, 5), 6, 10).is_contiguous(memory_format=torch.channels_last)


def test_context_of_no_effect_leaves_the_normalised_input() -> None:
    layer = Spade(4, 8)
    with torch.no_grad():
        for convolution in (layer.mlp_gamma, layer.mlp_beta):
            convolution.weight.zero_()
            convolution.bias.zero_()
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(layer(x, torch.randn(2, 4, 3, 3)), F.group_norm(x, 8))
