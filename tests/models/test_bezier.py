"""The Bezier activation against its closed form in float64."""

import pytest
import torch

from fluxflow_exp.models.bezier import BezierActivation, TrainableBezier, bezier


def closed_form(t, p0, p1, p2, p3):
    return (1 - t) ** 3 * p0 + 3 * (1 - t) ** 2 * t * p1 + 3 * (1 - t) * t**2 * p2 + t**3 * p3


def test_the_curve_is_the_bernstein_sum():
    t, *points = (torch.randn(100, dtype=torch.float64) for _ in range(5))
    torch.testing.assert_close(bezier(t, *points), closed_form(t, *points))


def test_the_ends_are_the_outer_points():
    points = [torch.tensor(float(k)) for k in (3, 5, 7, 11)]
    assert bezier(torch.tensor(0.0), *points) == 3
    assert bezier(torch.tensor(1.0), *points) == 11


@pytest.mark.parametrize("dim", [1, -1])
@pytest.mark.parametrize("p_pre", ["none", "silu"])
def test_five_neighbouring_channels_make_one(dim, p_pre):
    x = torch.randn(2, 3, 4, 15, dtype=torch.float64).transpose(dim, -1)
    found = BezierActivation(dim=dim, p_pre=p_pre)(x).transpose(dim, -1)
    last = x.transpose(dim, -1)
    pre = torch.nn.functional.silu if p_pre == "silu" else (lambda v: v)
    for channel in range(3):
        t, *points = last[..., 5 * channel : 5 * channel + 5].unbind(-1)
        expected = closed_form(torch.sigmoid(t), *(pre(p) for p in points))
        torch.testing.assert_close(found[..., channel], expected)


def test_with_silu_points_the_output_is_bounded_below():
    assert BezierActivation()(10 * torch.randn(8, 50, 4, 4)).min() >= -0.2785


def test_gradients_are_those_of_finite_differences():
    x = torch.randn(2, 10, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(BezierActivation(dim=1), (x,))
    assert torch.autograd.gradcheck(BezierActivation(dim=1, t_pre="tanh", p_pre="none"), (x,))


def test_channels_must_come_in_fives():
    with pytest.raises(ValueError, match="multiple of five channels, not 7"):
        BezierActivation()(torch.zeros(1, 7, 2, 2))


def test_a_trainable_curve_is_the_closed_form_of_its_own_points():
    curve = TrainableBezier(3, points=(-1.0, 0.25, 0.75, 1.0)).double()
    with torch.no_grad():
        curve.p1.copy_(torch.tensor([0.1, 0.2, 0.3]))
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    points = [p.view(1, 3, 1, 1) for p in (curve.p0, curve.p1, curve.p2, curve.p3)]
    torch.testing.assert_close(curve(x), closed_form(torch.sigmoid(x), *points))
    assert TrainableBezier(3)(torch.zeros(1, 3, 1, 1)).flatten().tolist() == pytest.approx([0.5] * 3)


def test_a_trainable_curve_passes_gradients_to_its_points():
    curve = TrainableBezier(2, dim=-1).double()
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, *_: curve(v), (x, *curve.parameters()))
