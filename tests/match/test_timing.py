"""Rounds of measuring, on machines whose time is a function of the work."""

from collections.abc import Callable

import pytest

from fluxflow_exp.match.timing import BLOCK, ROUNDS, Timing, alternate, rounds


def machine(time_of: Callable[[float], float], *, grain: float = 1e-6) -> tuple[list[float], dict[str, object]]:
    works: list[float] = []

    def find(aim: float) -> float:
        works.append(round(aim / grain) * grain)
        return works[-1]

    def measure() -> Timing:
        ratio = time_of(works[-1])
        return Timing(1.0, ratio, ratio, ratio, ratio, 10)

    return works, {"find": find, "measure": measure}


@pytest.mark.parametrize(
    "time_of",
    [
        lambda work: 0.7 * work,
        lambda work: 1.6 * work**0.5,
        lambda work: 0.9 * work**1.8,
        lambda work: 0.3 + 0.5 * work,
    ],
)
def test_times_become_equal_whatever_time_follows_from_work(time_of: Callable[[float], float]) -> None:
    works, pair = machine(time_of)
    made = rounds(**pair, tolerance=0.02)  # type: ignore[arg-type]
    assert made[-1].timing.ratio == pytest.approx(1, abs=0.02)
    assert len(made) == len(works) <= ROUNDS


def test_a_model_that_was_measured_ends_it_with_the_nearest() -> None:
    _, pair = machine(lambda work: 0.8 * work, grain=0.5)  # 1.0 and 1.5 are all that there is near
    made = rounds(**pair, tolerance=0.02)  # type: ignore[arg-type]
    assert made[-1].work in (1.0, 1.5)
    assert abs(made[-1].timing.ratio - 1) == min(abs(each.timing.ratio - 1) for each in made)


def test_a_machine_that_slows_down_slows_both() -> None:
    clock = {"speed": 1.0}

    def timer(seconds: float) -> Callable[[int], list[float]]:
        def time(count: int) -> list[float]:
            clock["speed"] *= 1.05
            return [seconds * clock["speed"]] * count

        return time

    found = alternate(timer(1.0), timer(2.0), updates=8 * BLOCK)
    assert found.ratio == pytest.approx(2 * 1.05)  # whoever comes second meets one step of it, not eight
    assert found.updates == 8 * BLOCK
    assert found.low <= found.ratio <= found.high
