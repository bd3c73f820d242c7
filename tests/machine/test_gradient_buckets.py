"""Sums of gradients in buckets: their order, what no gradient reaches, passes done again, and graphs."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from fluxflow_exp.machine import gradient_buckets
from fluxflow_exp.machine.gradient_buckets import ALIGNED, GradientBuckets


class Exchanges:
    """In place of `dist.all_reduce`: the other rank has ten times this one's gradients, and sends them when waited for.

    `events` says in order what happened: the number of a tensor that is exchanged, and what a test notes.
    """

    def __init__(self) -> None:
        self.events: list[Any] = []

    def all_reduce(self, tensor: Tensor, *, async_op: bool) -> Any:
        assert async_op
        self.events.append(tensor.numel())
        theirs = 10 * tensor

        class Work:
            def wait(self) -> None:
                tensor.add_(theirs)

        return Work()


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> Exchanges:
    found = Exchanges()
    monkeypatch.setattr(dist, "all_reduce", found.all_reduce)
    monkeypatch.setattr(gradient_buckets, "SIZE", 4 * 40)
    return found


def layers() -> list[nn.Parameter]:
    """Weights of 40, 32 and 20 elements; the loss below reaches the last one first."""
    return [nn.Parameter(torch.full((n,), 1.0)) for n in (40, 32, 20)]


def loss(weights: list[nn.Parameter], x: float = 1.0) -> Tensor:
    """Its gradients are 2x w / n · w² …; the product makes the backward pass go through one weight after another."""
    found = torch.full((), x)
    for weight in weights:
        found = found * weight.square().mean()
    return found


def backward(buckets: GradientBuckets, of: Callable[[], Tensor], *, last: bool = True, keep: bool = False) -> None:
    with buckets.filled(last=last, keep=keep):
        of().backward()


def test_buckets_hold_all_and_stay_small(exchanges: Exchanges) -> None:
    weights = [nn.Parameter(torch.zeros(n)) for n in (10, 30, 1, 100, 5)]
    weights.append(nn.Parameter(torch.zeros(3, dtype=torch.float64)))
    found = [[len(p) for p in bucket.parameters] for bucket in GradientBuckets(weights).buckets]
    assert found == [[10, 30], [1], [100], [5], [3]]


def test_a_bucket_is_exchanged_as_soon_as_it_is_full_and_the_sums_are_those_of_all_ranks(exchanges: Exchanges) -> None:
    weights = layers()
    buckets = GradientBuckets(reversed(weights))
    loss(weights).backward()
    alone = [weight.grad.clone() for weight in weights]  # type: ignore[union-attr]
    for weight in weights:
        weight.grad = None
    weights[1].register_hook(lambda _: exchanges.events.append("second"))
    weights[0].register_hook(lambda _: exchanges.events.append("first"))
    for _ in range(2):
        exchanges.events.clear()
        backward(buckets, lambda: loss(weights), last=False)
        assert exchanges.events == ["second", "first"]  # it is not the last pass
        exchanges.events.clear()
        backward(buckets, lambda: loss(weights))
        assert exchanges.events == [32, "second", 32, "first", 64]  # with what fills them up to whole words
        buckets.wait(keep=False)
        for weight, gradient in zip(weights, alone, strict=True):
            torch.testing.assert_close(weight.grad, 22 * gradient)
            weight.grad = None


def test_what_no_gradient_reaches_keeps_none_and_holds_up_nothing(exchanges: Exchanges) -> None:
    weights = layers()
    buckets = GradientBuckets(reversed(weights))
    weights[0].register_hook(lambda _: exchanges.events.append("first"))
    backward(buckets, lambda: loss([weights[0], weights[2]]))
    assert exchanges.events == [32, 32, "first", 64]
    buckets.wait(keep=False)
    assert weights[1].grad is None
    assert weights[0].grad is not None
    weights[1].requires_grad_(False)
    backward(buckets, lambda: loss(weights))
    buckets.wait(keep=False)
    assert weights[1].grad is None


def test_gradients_lie_as_their_weights_do(exchanges: Exchanges) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 2, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    buckets = GradientBuckets(layer.parameters())
    x = torch.randn(1, 3, 5, 5)
    backward(buckets, lambda: layer(x).square().sum())
    buckets.wait(keep=False)
    found = layer.weight.grad
    assert found.stride() == layer.weight.stride()
    layer.zero_grad()
    layer(x).square().sum().backward()
    torch.testing.assert_close(found, 11 * layer.weight.grad)


def test_a_pass_that_is_done_again_exchanges_what_is_left(exchanges: Exchanges) -> None:
    """Its other gradients are those that were exchanged before it failed."""
    weights = layers()
    buckets = GradientBuckets(reversed(weights))

    def fail(_: Tensor) -> None:
        raise torch.OutOfMemoryError("planted")

    planted = weights[0].register_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        backward(buckets, lambda: loss(weights))
    assert (exchanges.events, buckets.begun) == ([32, 32], 2)
    planted.remove()
    for weight in weights:
        weight.grad = None
    for last in (False, True):
        backward(buckets, lambda: loss(weights, 0.5), last=last)
    assert exchanges.events == [32, 32, 64]
    buckets.wait(keep=False)
    for weight in weights:
        torch.testing.assert_close(weight.grad, torch.full_like(weight, 11 * 2 / len(weight)))
    assert buckets.begun == 0


def test_kept_gradients_stay_where_they_are(exchanges: Exchanges) -> None:
    weights = layers()
    buckets = GradientBuckets(reversed(weights))
    places = set()
    for last in (False, True, False, True):
        backward(buckets, lambda: loss(weights), last=last, keep=True)
        places.add(tuple(weight.grad.data_ptr() for weight in weights))  # type: ignore[union-attr]
        if last:
            buckets.wait(keep=True)
            for weight in weights:
                torch.testing.assert_close(weight.grad, torch.full_like(weight, 22 * 2 / len(weight)))
                weight.grad.zero_()  # type: ignore[union-attr]
    assert len(places) == 1
    assert [start % ALIGNED for bucket in buckets.buckets for start in bucket.starts] == [0] * 6


def test_a_graph_notes_where_buckets_are_full_and_their_exchanges_wait_for_that(
    exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A capture is played: nothing of the exchange may be in it."""
    weights = layers()
    buckets = GradientBuckets(reversed(weights))
    backward(buckets, lambda: loss(weights), keep=True)
    buckets.wait(keep=True)
    torch._foreach_zero_([weight.grad for weight in weights])  # type: ignore[misc]
    exchanges.events.clear()
    monkeypatch.setattr(gradient_buckets, "_is_capturing", lambda: True)
    numbers = {bucket: index for index, bucket in enumerate(buckets.buckets)}
    monkeypatch.setattr(gradient_buckets, "_record", lambda bucket: exchanges.events.append(f"full {numbers[bucket]}"))
    weights[0].register_hook(lambda _: exchanges.events.append("first"))
    backward(buckets, lambda: loss(weights), last=False, keep=True)
    assert exchanges.events == ["full 0", "full 1", "first", "full 2"]
    exchanges.events.clear()
    backward(buckets, lambda: loss(weights[:1]), keep=True)
    assert exchanges.events == ["first", "full 0", "full 1", "full 2"]
    exchanges.events.clear()
    buckets.wait(keep=True)
    assert exchanges.events == [32, 32, 64]


def test_it_is_gone_with_its_parameters(exchanges: Exchanges) -> None:
    weights = layers()
    buckets = GradientBuckets(weights)
    with buckets.filled(last=True, keep=True):
        loss(weights).backward()
    buckets.wait(keep=True)
    left = [weakref.ref(buckets), *map(weakref.ref, weights)]
    del buckets, weights
    gc.collect()
    assert [each() for each in left] == [None] * len(left)
