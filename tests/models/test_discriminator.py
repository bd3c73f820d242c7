"""The patch discriminator."""

import torch

from fluxflow_exp.models.discriminator import PatchDiscriminator


def test_one_logit_a_patch_and_samples_stay_apart():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(base_channels=8, depth=2)
    images = torch.randn(3, 3, 32, 32)
    logits = discriminator(images)
    assert logits.shape == (3, 1, 8, 8)
    torch.testing.assert_close(logits[1:2], discriminator(images[1:2]))


def test_it_can_be_differentiated_twice():
    discriminator = PatchDiscriminator(base_channels=4, depth=2)
    images = torch.randn(2, 3, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    gradient.square().sum().backward()
    assert discriminator.layers[0].weight.grad.abs().max() > 0


def test_its_activation_does_not_depend_on_the_model():
    kinds = {type(m).__name__ for m in PatchDiscriminator(base_channels=4, depth=2).modules()}
    assert kinds == {"PatchDiscriminator", "Sequential", "AlignedConv2d", "Conv2d", "LeakyReLU"}
