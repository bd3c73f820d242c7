"""Rows are divided without a gap, come back in order, and each rank passes as many."""

import pytest
import torch

from fluxflow_exp.machine.portion import Portion
from fluxflow_exp.machine.ranks import Ranks
from tests.helpers.threads import together


@pytest.mark.parametrize(("total", "count"), [(8, 1), (8, 2), (7, 3), (5, 4), (2, 4)])
def test_portions_have_each_row_once_and_ranks_pass_as_many(total: int, count: int) -> None:
    portions = [Portion.even(Ranks(rank, count), total) for rank in range(count)]
    assert [place for each in portions for place in each.places[: each.own]] == [*range(total)]
    assert {len(each.places) for each in portions} == {-(-total // count)}
    assert {place for each in portions for place in each.places} == {*range(total)}


@pytest.mark.parametrize("owned", [[3], [3, 2], [0, 4, 1], [2, 0, 0, 3]])
def test_what_ranks_have_comes_back_in_order(owned: list[int]) -> None:
    values = torch.arange(10.0, 10.0 + sum(owned))

    def made(ranks: Ranks) -> tuple[torch.Tensor, list[str], float]:
        portion = Portion.of_own(ranks, owned[ranks.rank])
        mine = values[portion.places]
        own = mine[: portion.own]
        mean = portion.mean(float(own.mean()))  # nan of a rank that has none
        return portion.whole(mine), portion.listed([str(int(each)) for each in mine]), mean

    found = together(len(owned), made)
    assert torch.equal(found[0][0], values)
    assert all(listed == [str(int(each)) for each in values] for _, listed, _ in found)
    assert [mean for *_, mean in found] == pytest.approx([float(values.mean())] * len(owned))


def test_alone_nothing_is_computed_anew() -> None:
    portion, mean = Portion.even(Ranks(), 3), 0.1 + 0.2
    assert portion.whole(values := torch.ones(3)) is values
    assert portion.mean(mean) == mean
