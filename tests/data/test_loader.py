"""Order, workers, continuation, and replacement of bad samples."""

import pytest
import torch

from fluxflow_exp.data.loader import order, updates_per_epoch
from fluxflow_exp.data.protocols import BadSampleError, Sample
from fluxflow_exp.data.reading import read_all
from fluxflow_exp.errors import UserError
from tests.helpers.datasets import batches


class Numbers:
    """Sample i is the number i and a draw of its augmentation; `bad` ones cannot be read."""

    groups = None

    def __init__(self, n, bad=()):
        self.n, self.bad = n, set(bad)

    def __len__(self):
        return self.n

    def read(self, index, rng):
        draw = rng.randrange(256)
        if index in self.bad:
            raise BadSampleError(f"n{index}", "planted")
        return Sample(torch.full((3, 2, 2), draw, dtype=torch.uint8), f"number {index}", f"n{index}")


def content(found):
    return [(b.ids, b.captions, b.images.flatten().tolist(), b.bad) for b in found]


def test_an_epoch_shows_each_sample_once_and_the_next_in_another_order():
    found = batches(Numbers(12), last=6)
    epochs = [[i for b in found[e : e + 3] for i in b.ids] for e in (0, 3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(f"n{i}" for i in range(12))
    assert epochs[0] != epochs[1]
    assert epochs[0] == [f"n{i}" for i in order(12, seed=3, epoch=0)]


def test_a_last_partial_batch_is_dropped_and_a_set_smaller_than_a_batch_refused():
    assert updates_per_epoch(Numbers(11), 4) == 2
    with pytest.raises(ValueError, match="3 samples, fewer than a batch of 4"):
        updates_per_epoch(Numbers(3), 4)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(workers):
    source = Numbers(13, bad=(2, 5))
    assert content(batches(source, 7, workers=workers)) == content(batches(source, 7))


def test_it_starts_anywhere():
    source = Numbers(13, bad=(2, 5))
    assert content(batches(source, 7, first=4)) == content(batches(source, 7))[4:]


def test_a_bad_sample_is_replaced_in_its_place():
    clean, found = batches(Numbers(12), last=3), batches(Numbers(12, bad=(7,)), last=3)
    assert [b.bad for b in found if b.bad] == [[("n7", "planted")]]
    for a, b in zip(clean, found, strict=True):
        assert len(b.ids) == 4
        assert [x == y for x, y in zip(a.ids, b.ids, strict=True)] == [i != "n7" for i in a.ids]


class Others(Numbers):
    def __init__(self, sample):
        super().__init__(4)
        self.sample = sample

    def read(self, index, rng):
        return self.sample


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (Sample(torch.zeros(3, 2, 2), "a", "b"), r"uint8 \(3, height, width\), not torch.float32 \(3, 2, 2\)"),
        (Sample(torch.zeros(2, 2, 3, dtype=torch.uint8), "a", "b"), r"not torch.uint8 \(2, 2, 3\)"),
        (Sample(torch.zeros(3, 2, 2, dtype=torch.uint8), 7, "b"), r"a str and an id, not \['Tensor', 'int', 'str'\]"),
        ((torch.zeros(3, 2, 2, dtype=torch.uint8), "a", "b"), r"read must give a Sample\(image, caption, id\)"),
        (None, "not NoneType"),
    ],
)
def test_a_first_sample_of_ones_own_data_set_that_is_none_is_one_clear_error(sample, said):
    for workers in (0, 1):
        with pytest.raises(UserError, match=said) as raised:
            batches(Others(sample), last=1, workers=workers)
        assert "test_loader.Others: read must give" in str(raised.value)
    with pytest.raises(UserError, match=said):
        read_all(Others(sample), [0], seed=0)


def test_too_many_bad_samples_in_a_row_are_an_error():
    for workers in (0, 1):
        with pytest.raises(UserError, match=r"100 samples in a row.*Check that data\.data_path"):
            batches(Numbers(4, bad=range(4)), last=1, workers=workers)
    with pytest.raises(UserError, match="none of these samples"):
        read_all(Numbers(4, bad=range(4)), range(2), seed=0)


def test_augmentation_differs_by_epoch_and_sample():
    found = batches(Numbers(4), last=3)
    draws = {(e, i): int(b.images[k, 0, 0, 0]) for e, b in enumerate(found) for k, i in enumerate(b.ids)}
    assert len(set(draws.values())) > 6


def test_reading_in_order_leaves_bad_samples_out():
    batch = read_all(Numbers(5, bad=(1,)), range(4), seed=0)
    assert batch.ids == ["n0", "n2", "n3"]
    assert batch.bad == [("n1", "planted")]
