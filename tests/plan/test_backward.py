"""A backward pass walked in Python gives what torch's engine gives."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fluxflow_exp.plan.backward import walked


def gradients(*, walk: bool, checkpointing: bool = False, passes: int = 1) -> list[Tensor]:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3), nn.SiLU())
    scale = nn.Parameter(torch.randn(8, 1, 1))
    images = torch.randn(2, 3, 8, 8)

    def step() -> None:
        x = images.clone().requires_grad_()
        y = checkpoint(inner, x, use_reentrant=False) if checkpointing else inner(x)
        y = y * scale + y
        if checkpointing:
            y.square().sum().backward()
            return
        (of_images,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (of_weight,) = torch.autograd.grad(y.square().sum(), inner[0].weight, retain_graph=True)
        (y.square().sum() + of_images.square().sum() + of_weight.sum().detach()).backward()

    if walk:
        with walked():
            for _ in range(passes):
                step()
    else:
        for _ in range(passes):
            step()
    found = [parameter.grad for parameter in [*inner.parameters(), scale]]
    assert all(gradient is not None for gradient in found)
    return [gradient for gradient in found if gradient is not None]


def test_second_derivatives_kept_graphs_and_sums_are_the_engines() -> None:
    for mine, torchs in zip(gradients(walk=True, passes=2), gradients(walk=False, passes=2), strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-4, atol=1e-4)


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, power: int, scale: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return x * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        x, scale = ctx.saved_tensors
        return grad * scale, None, grad * x


def test_functions_of_our_own_may_have_arguments_that_are_no_tensors() -> None:
    x, scale = (torch.full((3,), value, requires_grad=True) for value in (2.0, 5.0))
    with walked():
        Scaled.apply(x, 3, scale).sum().backward()
    assert x.grad is not None
    assert scale.grad is not None
    assert (x.grad.tolist(), scale.grad.tolist()) == ([5.0] * 3, [2.0] * 3)


def test_checkpointed_blocks_are_computed_again() -> None:
    for mine, torchs in zip(
        gradients(walk=True, checkpointing=True), gradients(walk=False, checkpointing=True), strict=True
    ):
        torch.testing.assert_close(mine, torchs, rtol=1e-4, atol=1e-4)
