"""Distances of sets against closed forms, a direct formula, and torchmetrics."""

import pytest
import torch
from torch import Tensor

from fluxflow_exp.evaluation.distances import frechet, kernel
from tests.helpers.packages import skip_without

skip_without("torch_fidelity")


def features(n: int, width: int, seed: int) -> Tensor:
    return torch.rand(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whitened(n: int, width: int, seed: int) -> Tensor:
    """Features of mean 0 and covariance 1 exactly, with the unbiased estimate."""
    x = features(n, width, seed)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (n - 1))).T


def test_frechet_has_the_value_of_two_gaussians() -> None:
    # Covariances diag(a²) and diag(b²) commute: ‖μ‖² + Σ (a - b)².
    a, b = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), torch.tensor([2.0, 2.0, 0.5], dtype=torch.float64)
    shift = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)
    found = frechet(whitened(200, 3, 0) * a, whitened(150, 3, 1) * b + shift)
    assert found == pytest.approx(5.0 + 1.0 + 6.25, abs=1e-9)


def test_frechet_of_covariances_that_do_not_commute() -> None:
    # tr (Σ₁Σ₂)^½ is the sum of the singular values of L₁ᵀL₂, for Σ = LLᵀ.
    one, two = (torch.tril(features(4, 4, seed)) + torch.eye(4, dtype=torch.float64) for seed in (2, 3))
    found = frechet(whitened(100, 4, 0) @ one.T, whitened(100, 4, 1) @ two.T)
    expected = one.square().sum() + two.square().sum() - 2 * torch.linalg.svdvals(one.T @ two).sum()
    assert found == pytest.approx(float(expected), abs=1e-9)


def test_frechet_with_fewer_images_than_features() -> None:
    # As above with the data themselves for L; singular covariances cost digits.
    real, fake = features(20, 200, 0), features(25, 200, 1) * 1.2
    x, y = real - real.mean(0), fake - fake.mean(0)
    cross = torch.linalg.svdvals(x @ y.T).sum() / (19 * 24) ** 0.5
    expected = (real.mean(0) - fake.mean(0)).square().sum() + x.square().sum() / 19 + y.square().sum() / 24 - 2 * cross
    assert frechet(real, fake) == pytest.approx(float(expected), rel=1e-5)
    assert frechet(real, real) == pytest.approx(0, abs=1e-4)


def test_frechet_agrees_with_torchmetrics() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    real, fake = features(120, 16, 0), features(90, 16, 1).square()
    moments = [each for x in (real, fake) for each in (x.mean(0), x.T.cov())]
    assert frechet(real, fake) == pytest.approx(float(fid._compute_fid(*moments)), rel=1e-9)


def test_kernel_has_the_value_of_the_unbiased_formula() -> None:
    real, fake = features(7, 5, 0), features(7, 5, 1) + 0.3

    def k(x: Tensor, y: Tensor) -> float:
        return float((x @ y / 5 + 1) ** 3)

    within = sum(k(s[i], s[j]) for s in (real, fake) for i in range(7) for j in range(7) if i != j) / (7 * 6)
    across = sum(k(x, y) for x in real for y in fake) / 49
    assert kernel(real, fake) == pytest.approx(within - 2 * across, abs=1e-10)


def test_kernel_of_unequal_sets_draws_the_same_subsets_and_disturbs_no_other_numbers() -> None:
    real, fake = features(30, 5, 0), features(20, 5, 1)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = kernel(real, fake)
    assert torch.equal(torch.rand(4), expected)
    assert kernel(real, fake) == first
    assert kernel(real, fake, seed=1) != first
