"""Reading ahead: in order, bounded, and with the errors of what is read."""

import threading
from collections.abc import Iterator
from itertools import count

import pytest

from fluxflow_exp.data.prefetch import AHEAD, read_ahead


def test_results_come_in_order_and_only_a_few_are_read_ahead() -> None:
    asked, hold = count(), threading.Event()
    taken: list[int] = []

    def items() -> Iterator[int]:
        for each in asked:
            taken.append(each)
            yield each

    def read(item: int) -> int:
        if item % 4 == 0:
            hold.wait(0.01)  # others are done before it
        return 10 * item

    found = read_ahead(read, items(), gpu=False)
    assert [next(found) for _ in range(20)] == [10 * each for each in range(20)]
    assert taken == list(range(20 + AHEAD))
    found.close()


def test_an_error_comes_in_the_place_of_its_result() -> None:
    found = read_ahead(lambda item: 1 // item, [2, 0, 1], gpu=False)
    assert next(found) == 0
    with pytest.raises(ZeroDivisionError):
        next(found)
