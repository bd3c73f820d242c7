"""The compact autoencoder: shapes, ranges, gradients, no path around the bottleneck."""

import pytest
import torch

from fluxflow_exp.models.compact_vae import Compressor, Expander
from fluxflow_exp.models.posterior import Posterior

ACTIVATIONS = ["bezier", "silu", "gelu", "relu"]


def pair(activation="silu", widths=(8, 16), vae_dim=4):
    torch.manual_seed(0)
    options = {"vae_dim": vae_dim, "widths": list(widths), "blocks": 1, "activation": activation}
    return Compressor(**options), Expander(**options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_learns_to_reconstruct_one_batch(activation):
    compressor, expander = pair(activation)
    images = torch.nn.functional.interpolate(torch.rand(4, 3, 4, 4) * 2 - 1, size=16)
    optimizer = torch.optim.Adam([*compressor.parameters(), *expander.parameters()], lr=1e-2)
    losses = []
    for _ in range(60):
        posterior = compressor(images)
        loss = (expander(posterior.mean) - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_shapes_follow_the_widths():
    compressor, expander = pair(widths=(8, 16, 16))
    posterior = compressor(torch.zeros(2, 3, 32, 48))
    assert compressor.downscale == 8
    assert posterior.mean.shape == posterior.logvar.shape == (2, 4, 4, 6)
    assert expander(posterior.mean).shape == (2, 3, 32, 48)


def test_sides_must_be_multiples_of_the_downscale():
    with pytest.raises(ValueError, match="multiples of 4, not 18x16"):
        pair()[0](torch.zeros(1, 3, 16, 18))


def test_the_posterior_is_a_gaussian_with_its_mean_and_deviation():
    mean, logvar = torch.full((1, 1, 100, 100), 2.0), torch.full((1, 1, 100, 100), -2.0)
    drawn = Posterior(mean, logvar).sample(torch.randn(1, 1, 100, 100, generator=torch.Generator().manual_seed(0)))
    assert drawn.mean().item() == pytest.approx(2.0, abs=0.02)
    assert drawn.std().item() == pytest.approx(torch.tensor(-1.0).exp().item(), abs=0.01)


def test_nothing_reaches_the_expander_around_the_bottleneck():
    compressor, expander = pair()
    images = torch.randn(1, 3, 16, 16, requires_grad=True)
    posterior = compressor(images)
    noise_only = posterior.mean * 0 + torch.randn_like(posterior.mean)
    expander(noise_only).sum().backward()
    assert images.grad.abs().max() == 0


def test_checkpointing_changes_memory_not_results():
    compressor, _ = pair("bezier")
    images = torch.randn(2, 3, 16, 16)
    results = []
    for checkpointing in (False, True):
        compressor.checkpointing = checkpointing
        compressor.zero_grad()
        compressor(images).mean.square().sum().backward()
        results.append([p.grad.clone() for p in compressor.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_bezier_block_costs_about_what_a_plain_one_does():
    plain, curved = (
        sum(p.numel() for m in pair(a, widths=(48, 96)) for p in m.parameters()) for a in ("silu", "bezier")
    )
    assert curved == pytest.approx(plain, rel=0.03)
