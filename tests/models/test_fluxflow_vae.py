"""The published autoencoder's shape; its numbers are compared in test_convert_weights."""

import pytest
import torch

from fluxflow_exp.models.bezier import BezierActivation, TrainableBezier
from fluxflow_exp.models.fluxflow_vae import Compressor, Expander, position_codes, stage_widths
from fluxflow_exp.models.layers import ActivationName

MIXER = {32: 4384, 64: 16960, 128: 66688}  # parameters of FluxFlow's that nothing calls


@pytest.mark.parametrize(("dim", "compressor", "expander"), [(32, 846449, 6273391), (128, 12580553, 94073551)])
def test_it_has_as_many_parameters_as_the_published_one(dim: int, compressor: int, expander: int) -> None:
    with torch.device("meta"):
        counts = [sum(p.numel() for p in m(vae_dim=dim).parameters()) for m in (Compressor, Expander)]
    assert counts == [compressor, expander - MIXER[dim]]


def test_widths_are_those_of_the_published_one() -> None:
    assert stage_widths(128, 4) == [5, 36, 66, 97, 128]
    assert stage_widths(256, 4) == [5, 68, 130, 193, 256]


@pytest.mark.parametrize("activation", ["silu", "gelu", "relu"])
def test_another_activation_leaves_no_curve(activation: str) -> None:
    for kind in (Compressor, Expander):
        module = kind(vae_dim=16, activation=activation)
        assert not any(isinstance(m, BezierActivation | TrainableBezier) for m in module.modules())
    compressor, expander = Compressor(vae_dim=16, activation=activation), Expander(vae_dim=16, activation=activation)
    posterior = compressor(torch.rand(1, 3, 32, 16) * 2 - 1)
    assert posterior.mean.shape == posterior.logvar.shape == (1, 16, 2, 1)
    images = expander(posterior.mode(), True)
    assert images.shape == (1, 3, 32, 16)
    assert images.abs().max() <= 1


def test_spade_is_on_or_off_as_the_call_says() -> None:
    expander = Expander(vae_dim=16, spade=True)
    latents = torch.randn(1, 16, 1, 2)
    with torch.no_grad():
        assert torch.equal(expander(latents), expander(latents, True))
        assert not torch.equal(expander(latents), expander(latents, False))


def test_checkpointing_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    compressor, expander = Compressor(vae_dim=8), Expander(vae_dim=8)
    gradients = []
    for checkpointing in (False, True):
        compressor.checkpointing = expander.checkpointing = checkpointing
        compressor.zero_grad()
        expander.zero_grad()
        images = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
        expander(compressor(images).mode(), True).square().mean().backward()
        parameters = [*compressor.named_parameters(), *expander.named_parameters()]
        gradients.append({n: p.grad.clone() for n, p in parameters if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6)


def test_positions_differ_and_sides_must_divide() -> None:
    codes = position_codes(3, 4, 16, device=torch.device("cpu"))
    assert codes.shape == (12, 16)
    assert len({tuple(row.tolist()) for row in codes}) == 12
    with pytest.raises(ValueError, match="multiples of 16"):
        Compressor(vae_dim=8)(torch.zeros(1, 3, 24, 32))
    with pytest.raises(ValueError, match="multiple of attn_heads"):
        Compressor(vae_dim=12)


@pytest.mark.parametrize("activation", ["bezier", "silu", "gelu", "relu"])
def test_pictures_reach_the_latents_and_latents_the_pictures_from_the_start(activation: ActivationName) -> None:
    torch.manual_seed(0)
    compressor, expander = Compressor(vae_dim=32, activation=activation), Expander(vae_dim=32, activation=activation)
    images = torch.rand(6, 3, 1, 1) * 2 - 1 + 0.3 * torch.randn(6, 3, 64, 64)
    with torch.no_grad():
        posterior = compressor(images)
        latents, noisy = posterior.mode(), posterior.sample(torch.randn(posterior.mean.shape))
        made = expander(noisy)
    assert posterior.logvar is not None
    assert float(posterior.logvar.mean()) == pytest.approx(-4, abs=0.5)
    assert _over_samples(posterior.mean) > 0.03
    assert _over_samples(latents) > 0.03
    assert _over_samples(made) > 0.03
    loss = expander(compressor(images).mode()).sub(images).square().mean()
    first = compressor.encoder_first_step[0][0].weight
    (gradient,) = torch.autograd.grad(loss, [first])
    assert gradient.norm() > 1e-4


def _over_samples(values: torch.Tensor) -> float:
    """How far samples differ at the same place: the root of their mean variance."""
    return float(values.var(0).mean().sqrt())
