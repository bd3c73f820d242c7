"""Batches that are read before a trainer is there are those that it would read itself, and their workers end."""

import multiprocessing
from contextlib import closing
from typing import Any

import pytest
import torch

from fluxflow_exp.data.loader import Batch, load_batches
from fluxflow_exp.data.shapes import Shapes
from fluxflow_exp.machine.hardware import Machine
from fluxflow_exp.machine.ranks import Ranks
from fluxflow_exp.step_length import Length
from fluxflow_exp.trainers.early_batches import arguments, reading_early

SOURCE = Shapes(img_size=8, n_images=32).train


def how(*, first: int = 2, workers: int = 1) -> dict[str, Any]:
    length = Length(updates=6, updates_per_epoch=4, batch_size=8, micro_batch=8)
    machine = Machine(torch.device("cpu"), "fp32", True)
    return arguments(
        first=first, last=6, seed=3, length=length, num_workers=workers, machine=machine, ranks=Ranks(), img_size=8
    )


def same(found: list[Batch], expected: list[Batch]) -> bool:
    return len(found) == len(expected) > 0 and all(
        torch.equal(a.images, b.images) and a.ids == b.ids for a, b in zip(found, expected, strict=True)
    )


def test_they_are_those_that_are_read_late_and_handed_over_once() -> None:
    with reading_early(SOURCE, how()) as early:
        assert early is not None
        assert multiprocessing.active_children()  # before anybody has asked for a batch
        taken = early.take(SOURCE, how())
        assert taken is not None
        with closing(taken):
            first = next(taken)
            assert early.take(SOURCE, how()) is None
            found = [first, *taken]
        assert not multiprocessing.active_children()
    assert same(found, list(load_batches(SOURCE, **how(workers=0))))


@pytest.mark.parametrize("asked", [how(first=3), None])
def test_workers_end_when_other_batches_or_none_are_asked_for(asked: dict[str, Any] | None) -> None:
    with reading_early(SOURCE, how()) as early:
        assert early is not None
        assert asked is None or early.take(SOURCE, asked) is None
        assert bool(multiprocessing.active_children()) == (asked is None)
    assert not multiprocessing.active_children()


def test_without_workers_nothing_is_begun() -> None:
    with reading_early(SOURCE, how(workers=0)) as early:
        assert early is None
