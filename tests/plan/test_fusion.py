"""Memory of a graph whose pointwise operations are fused, counted by hand."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from fluxflow_exp.models.layers import Region
from fluxflow_exp.plan.fusion import _Fused, _Walk
from fluxflow_exp.plan.memory_meter import Meter

SIDE = 64
BYTES = 4 * SIDE**2  # of each tensor here


def measured(function: Callable[[Tensor, Tensor], Tensor], *, fused: bool) -> tuple[int, int]:
    """How many tensors live at the peak, beside the arguments, and how many operations run."""
    given = torch.ones(2, SIDE, SIDE).unbind()
    walk, meter = _Walk(make_fx(function)(*given), Meter("cpu")), Meter("cpu")
    walk.meter = meter
    with meter:
        found = walk.boxed_run(list(given)) if fused else function(*given)
    assert torch.equal(found, function(*given))
    return meter.peak // BYTES, len(meter.operations)


class Optional(Region):
    """Takes some of its inputs or none, and may give two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, first: Tensor | None = None, second: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self.layer(x)
        return y + (0 if first is None else 2 * first) + (0 if second is None else 3 * second), y


def test_inputs_that_are_off_stay_off_and_all_outputs_are_given() -> None:
    torch.manual_seed(0)
    region, (x, more) = Optional(), torch.randn(2, 3, 4).unbind()
    graphs: dict[Any, Any] = {}
    for inputs in ((x,), (x, more), (x, None, more), (x, more, more), (x, None, None)):
        wanted = region.forward(*inputs)
        found = _Fused(region, Meter("cpu"), graphs)(*inputs)
        torch.testing.assert_close(found, wanted)
    assert len(graphs) == 4  # what is left out and what is None are the same


def test_pointwise_results_are_in_memory_only_where_a_product_takes_them() -> None:
    def product_of_sum(x: Tensor, w: Tensor) -> Tensor:
        return (x.exp() + x.sin()) @ w

    assert measured(product_of_sum, fused=False) == (3, 4)  # both terms and their sum
    assert measured(product_of_sum, fused=True) == (2, 2)  # the sum and the product


def test_what_a_fused_result_is_made_of_stays_as_long_as_that_is_needed() -> None:
    def sum_of_products(x: Tensor, w: Tensor) -> Tensor:
        return (x @ w).exp() + w @ x

    assert measured(sum_of_products, fused=True) == (3, 3)  # both products and their sum
