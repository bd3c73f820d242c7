"""The search for widths, on costs of closed form."""

from collections.abc import Callable

import pytest

from fluxflow_exp.match.search import STRETCH, Space, Widths, search

STEPS = tuple((step,) * 3 for step in (8, 4, 2, 1))


def convolutions(widths: Widths) -> float:
    """Weights of convolutions between stages and within."""
    return float(sum(36 * a * b + 18 * b * b for a, b in zip((3, *widths[:-1]), widths, strict=True)))


def anything(_: Widths) -> bool:
    return True


@pytest.mark.parametrize("times", [0.3, 0.9, 1.1, 3.0])
@pytest.mark.parametrize("allowed", [anything, lambda widths: widths[1] == 2 * widths[0]])
def test_any_target_is_reached_to_a_hundredth(times: float, allowed: Callable[[Widths], bool]) -> None:
    space = Space((32, 64, 96), STEPS, allowed)
    target = times * convolutions(space.start)
    found = search(space, convolutions, target, tolerance=0.01)
    assert abs(convolutions(found.widths) / target - 1) <= 0.01
    assert found.cost == convolutions(found.widths)
    assert allowed(found.widths)
    grown = [width / first for width, first in zip(found.widths, space.start, strict=True)]
    assert max(grown) <= STRETCH * min(grown)


def test_what_is_equal_stays_as_it_is() -> None:
    space = Space((32, 64, 96), STEPS, anything)
    found = search(space, convolutions, convolutions(space.start), tolerance=0.01)
    assert (found.widths, found.tried) == (space.start, 1)


def test_multiples_of_eight_are_preferred() -> None:
    space = Space((64, 128, 192), STEPS, anything)
    wanted = convolutions((72, 136, 192))
    assert all(width % 8 == 0 for width in search(space, convolutions, wanted, tolerance=0.01).widths)


def test_no_model_is_tried_twice_and_the_nearest_is_given_where_none_fits() -> None:
    asked: list[Widths] = []

    def coarse(widths: Widths) -> float:
        asked.append(widths)
        return float(1 + sum(widths) // 100)

    found = search(Space((64, 128, 192), STEPS, anything), coarse, 4.5, tolerance=0.01)
    assert len(asked) == len(set(asked)) == found.tried
    assert found.cost in (4.0, 5.0)
