"""The length of a step: updates, epochs and batches, whole batches of the training set alone."""

from pathlib import Path

import pytest

from fluxflow_exp.config.compose import typed
from fluxflow_exp.data.shapes import Shapes
from fluxflow_exp.errors import UserError
from fluxflow_exp.step_length import APART, LEAST, Every, Length, length_of, lengths_of
from tests.conftest import toy


def test_updates_epochs_and_batches_count_from_one() -> None:
    length = Length(updates=7, updates_per_epoch=3, batch_size=8, micro_batch=8)
    assert [(length.epoch(u), length.batch(u)) for u in (1, 3, 4, 7)] == [(1, 1), (1, 3), (2, 1), (3, 1)]
    assert [update for update in range(1, 8) if length.ends_epoch(update)] == [3, 6, 7]


def due(per_epoch: int, updates: int, every: Every) -> list[int]:
    length = Length(updates, per_epoch, batch_size=8, micro_batch=8)
    return [update for update in range(1, updates + 1) if length.is_due(update, every)]


@pytest.mark.parametrize(
    ("per_epoch", "updates", "every", "epochs"),
    [
        (3, 20, 2, [2, 4, 6, 7]),
        (3, 20, None, []),
        (256, 768, "auto", [1, 2, 3]),  # the quickstart's
        (200, 200 * 30, "auto", list(range(1, 31))),
        (199, 199 * 21, "auto", [*range(2, 21, 2), 21]),  # 398 updates apart
        (50, 50 * 42, "auto", [*range(4, 41, 4), 42]),
        (50, 50 * 39, "auto", [4, 8, 12, 16, 20, 24, 28, 32, 36, 39]),
        (2, 2 * 12, "auto", [2, 3, 4, 5, 6, 8, 9, 10, 11, 12]),
        (2, 2 * 9, "auto", list(range(1, 10))),
        (50, 7, "auto", [1]),
    ],
)
def test_what_is_due_at_the_ends_of_epochs_is_due_at_the_end_and_seldom_in_short_epochs(
    per_epoch: int, updates: int, every: Every, epochs: list[int]
) -> None:
    found = due(per_epoch, updates, every)
    assert found == [min(epoch * per_epoch, updates) for epoch in epochs]
    assert Length(updates, per_epoch, batch_size=8, micro_batch=8).times(every) == len(epochs)


@pytest.mark.parametrize("per_epoch", [1, 3, 20, 67, 200, 500])
def test_auto_gives_a_curve_keeps_updates_between_its_points_and_never_less_to_a_longer_step(per_epoch: int) -> None:
    """What fits into minutes is found by bisection, which a count that falls would lead astray."""
    before = 0
    for epochs in range(1, 260, 3):
        updates = epochs * per_epoch
        found = due(per_epoch, updates, "auto")
        assert len(found) >= max(before, min(epochs, LEAST))
        assert len(found) <= max(LEAST, updates / min(APART, per_epoch * epochs) + 1) or per_epoch >= APART
        assert max(b - a for a, b in zip([0, *found], found, strict=False)) <= max(
            per_epoch, APART + per_epoch, -(-updates // LEAST)
        )
        before = len(found)


def test_a_step_ends_with_its_epochs_or_with_max_updates(tmp_path: Path) -> None:
    config = typed(toy(tmp_path, "stage.steps.vae.max_updates=5", "hardware.micro_batch.autoencoder=3"))
    data = Shapes(img_size=16, n_images=35, n_validation=8)
    lengths = lengths_of(config, dict.fromkeys(config.stage.steps, data), ranks=2)
    assert lengths["vae"] == Length(updates=5, updates_per_epoch=4, batch_size=8, micro_batch=3)
    assert lengths["vae_gan"] == Length(updates=8, updates_per_epoch=4, batch_size=8, micro_batch=3)
    assert lengths["flow"] == Length(updates=8, updates_per_epoch=4, batch_size=8, micro_batch=4)  # a rank's share


def test_a_set_smaller_than_a_batch_is_refused(tmp_path: Path) -> None:
    config = typed(toy(tmp_path))
    with pytest.raises(UserError, match="fewer than a batch of 8"):
        length_of(config.stage.steps["vae"], Shapes(img_size=16, n_images=7, n_validation=8), config)


def test_each_step_whose_set_is_smaller_than_a_batch_is_told_with_its_key(tmp_path: Path) -> None:
    config = typed(toy(tmp_path, "stage.steps.vae_gan.batch_size=4"))
    data = dict.fromkeys(config.stage.steps, Shapes(img_size=16, n_images=7, n_validation=8))
    with pytest.raises(UserError) as refused:
        lengths_of(config, data)
    assert refused.value.args == tuple(
        f"step {name}: the training set has 7 samples, fewer than a batch of 8; set stage.steps.{name}.batch_size lower"
        for name in ("vae", "flow")
    )
