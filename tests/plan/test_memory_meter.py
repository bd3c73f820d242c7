"""Memory and work of operations on a GPU that is not there, counted by hand."""

import torch
import torch.nn.functional as F
from torch import nn

from fluxflow_exp.plan.fake_gpu import DEVICE, fake_gpu
from fluxflow_exp.plan.memory_meter import Meter

MAP = 2 * 16 * 32 * 32 * 4  # bytes of a feature map


def test_a_chain_of_convolutions_keeps_its_activations_until_their_backward() -> None:
    with fake_gpu(), Meter() as meter:
        with torch.device(DEVICE):
            layers = [nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(3)]
            x = torch.zeros(2, 16, 32, 32)
        weights = 3 * 16 * 16 * 9 * 4
        assert meter.live == weights + MAP
        for layer in layers:
            x = F.relu(layer(x))
        # The first input is kept for a weight gradient; a ReLU keeps its result, which the next layer keeps too.
        assert meter.live == weights + 4 * MAP
        loss = x.sum()
        meter.restart()
        loss.backward()  # type: ignore[no-untyped-call]
        del loss, x
        assert meter.live == 2 * weights
        # The highest point is the first of three: four maps, the gradients before and behind ReLU.
        assert 2 * weights + 5 * MAP <= meter.peak <= 2 * weights + 7 * MAP
        flops = 2 * 16 * 9 * 16 * 32 * 32 * 2  # of a pass through one layer
        assert sum(each.flops for each in meter.operations) == flops * 5  # no gradient of the input


def test_what_is_off_takes_nothing_and_views_take_nothing() -> None:
    with fake_gpu(), Meter() as meter:
        with meter.off():
            x = torch.zeros(1024, device=DEVICE)
        y = x.view(32, 32).t()
        assert meter.live == 0
        z = y + 1
        assert (meter.live, len(meter.operations)) == (4096, 1)
        del z
        assert (meter.live, meter.peak) == (0, 4096)
        _small = torch.zeros(1, device=DEVICE)
        assert meter.live == 512


def test_attention_keeps_no_matrix_of_all_pairs() -> None:
    with fake_gpu(), Meter() as meter:
        with torch.device(DEVICE):
            query = torch.zeros(1, 2, 4096, 32, dtype=torch.bfloat16, requires_grad=True)
            mask = torch.ones(1, 1, 1, 4096, dtype=torch.bool)
        F.scaled_dot_product_attention(query, query, query).sum().backward()  # type: ignore[no-untyped-call]
        F.scaled_dot_product_attention(query, query, query, attn_mask=mask).sum().backward()  # type: ignore[no-untyped-call]
        assert meter.peak < 4096 * 4096
