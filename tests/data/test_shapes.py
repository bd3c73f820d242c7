"""The built-in drawings: determinism, the held-out split, exact captions."""

import random
from itertools import combinations

import pytest
import torch

from fluxflow_exp.data.shapes import Shapes, split_triples
from fluxflow_exp.data.shapes_geometry import COLOURS, KINDS, caption_of, coverage


def test_a_drawing_is_a_function_of_its_index():
    first, second = Shapes(), Shapes()
    for index in (0, 5, 16383):
        a, b = first.train.read(index, random.Random(0)), second.train.read(index, random.Random(99))
        assert torch.equal(a.image, b.image)
        assert (a.caption, a.id) == (b.caption, b.id)
    assert not torch.equal(Shapes(seed=1).train.read(0, random.Random(0)).image, a.image)


def test_held_out_triples_are_new_but_their_pairs_are_not():
    trained, held_out = split_triples()
    assert len(KINDS) >= 6
    assert len(COLOURS) >= 8
    assert len(trained) + len(held_out) == 6 * 8 * 7
    assert not set(trained) & set(held_out)
    assert len(held_out) >= 40
    for i, j in combinations(range(3), 2):
        assert {(t[i], t[j]) for t in held_out} <= {(t[i], t[j]) for t in trained}


def test_training_never_shows_a_held_out_triple_and_validation_shows_only_those():
    data = Shapes(n_images=2000)
    held_out = {caption_of(t) for t in split_triples()[1]}
    rng = random.Random(0)
    assert not held_out & {data.train.read(i, rng).caption for i in range(2000)}
    assert {data.validation.read(i, rng).caption for i in range(256)} == held_out
    assert set(data.prompts) == held_out
    assert data.prompts[0] != sorted(data.prompts)[0]


def test_a_circle_covers_its_area():
    covered = coverage("circle", 64, centre=(32.0, 32.0), radius=20.0)
    assert covered.sum() == pytest.approx(3.14159 * (0.95 * 20) ** 2, rel=0.01)
    assert covered[32, 32] == 1
    assert covered[0, 0] == 0
