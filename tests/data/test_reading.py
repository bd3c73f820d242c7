"""Which samples are read to be shown."""

from itertools import pairwise

from fluxflow_exp.data.reading import spread
from fluxflow_exp.data.shapes import Shapes
from fluxflow_exp.data.shapes_geometry import KINDS


def test_every_place_comes_once_and_the_first_few_lie_apart() -> None:
    for total in (*range(1, 300), 9999, 65536):
        assert sorted(spread(total, total)) == [*range(total)]
    for most in range(1, 64):
        assert spread(1000, most) == spread(1000, 64)[:most], "more pictures begin with the same"
        ends = [-1, *sorted(spread(1000, most)), 1000]
        assert max(b - a for a, b in pairwise(ends)) < 2 * 1000 / most + 2
    assert spread(3, 8) == spread(3, 3)
    assert spread(0, 8) == []


def test_a_list_with_a_period_shows_most_of_it() -> None:
    for period in range(2, 9):  # each subject in so many styles: even distances would meet one again and again
        assert len({place % period for place in spread(960, 16)}) > period / 2


def test_the_built_in_drawings_show_every_kind() -> None:
    data = Shapes()
    held_out = data.validation.triples
    shown = [held_out[place % len(held_out)] for place in spread(len(data.validation), 8)]
    prompts = [data.prompts[place] for place in spread(len(data.prompts), 8)]
    assert {kind for kind, _, _ in shown} == {*KINDS}
    assert len({colour for _, colour, _ in shown}) >= 6
    assert len({prompt.split()[2] for prompt in prompts}) >= 5
