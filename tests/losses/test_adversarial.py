"""The patch GAN against closed forms, and what it keeps from update to update."""

import pytest
import torch

from fluxflow_exp.losses.adversarial import Adversarial
from fluxflow_exp.losses.lecam import LeCam


def test_hinge_losses_patch_by_patch():
    gan = Adversarial()
    real, fake = torch.tensor([[[[2.0, 0.0]]]]), torch.tensor([[[[-2.0, 1.0]]]])
    assert gan.discriminator(real, fake)["d"].item() == pytest.approx((0 + 1) / 2 + (0 + 2) / 2)
    assert gan.generator(fake)["g"].item() == pytest.approx(0.5)


def test_r1_of_a_linear_discriminator_is_its_squared_weight():
    class Linear(torch.nn.Module):
        def forward(self, x):
            return 3.0 * x.sum((1, 2, 3)).view(-1, 1, 1, 1)

    gan = Adversarial(r1_gamma=2.0, r1_interval=4)
    found = gan.r1(Linear(), torch.randn(2, 3, 2, 2))["r1"]
    assert found.tolist() == pytest.approx([0.5 * 2.0 * 4 * 9.0 * 12] * 2)
    assert [u for u in range(9) if gan.r1_due(u)] == [0, 4, 8]


@pytest.mark.parametrize("norms", [(1.0, 4.0), (0.0, 1.0), (1.0, 0.0), (1e-8, 1e3)])
def test_the_adaptive_weight_is_a_ratio_of_norms_and_never_negative(norms):
    weight = Adversarial(weight=0.1, adaptive_limit=50.0).adaptive_weight(*map(torch.tensor, norms))
    assert 0.0 <= weight.item() <= 0.1 * 50.0 * (1 + 1e-6)
    if norms == (1.0, 4.0):
        assert weight.item() == pytest.approx(0.025, rel=1e-4)


def brightness(images):
    return images.mean((1, 2, 3)).view(-1, 1, 1, 1)


def test_the_weight_of_an_update_comes_from_the_gradients_of_the_one_before():
    layer = torch.tensor([2.0], requires_grad=True)
    scaler, images = torch.amp.GradScaler("cpu", enabled=False), torch.ones(2, 3, 1, 1)

    def weight(gan: Adversarial, update: int) -> float:
        gan.begin_update(update, (2, 3, 1, 1), lambda shape, purpose: torch.zeros(shape))
        gan.begin_generator()
        for part in images.split(1):  # two micro-batches
            fakes = layer * part
            terms, weights = gan.generator_terms(fakes, part, 3 * fakes.mean((1, 2, 3)), layer, scaler)
        weight = float(weights["g"])
        gan.end_generator({"fakes": images, "g": terms["g"]})
        found, weights = gan.discriminator_terms(*gan.discriminator_arguments(images, slice(0, 2), slice(0, 2)))
        gan.end_discriminator(found)
        assert set(found) == set(weights) == {"d", "lecam"}
        assert gan.end_update(total=lambda x: x, mean=lambda x: x)["g_weight"] == pytest.approx(0.3)
        return weight

    gan, again = (Adversarial(weight=0.1, r1_gamma=0.0) for _ in range(2))
    for each in (gan, again):
        each.face(brightness, first=4, device=torch.device("cpu"), lecam=LeCam())
    assert [gan.plays(update) for update in (3, 4)] == [False, True]
    assert [weight(gan, update) for update in (4, 5)] == pytest.approx([0.0, 0.3])
    assert set(gan.state_dict()) == {"adversarial_weight", "lecam"}
    again.load_state_dict(gan.state_dict())
    assert weight(again, 6) == weight(gan, 6)


def test_a_fixed_weight_asks_for_no_layer_and_no_reconstruction():
    gan, scaler = Adversarial(weight=0.25, adaptive=False), torch.amp.GradScaler("cpu", enabled=False)
    gan.face(brightness, first=0, device=torch.device("cpu"))
    gan.begin_generator()
    images = torch.ones(2, 3, 1, 1)
    terms, weights = gan.generator_terms(images, images, None, None, scaler)
    assert (set(terms), weights) == ({"g", "fakes"}, {"g": 0.25})
