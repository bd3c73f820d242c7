"""The length of a step: updates, epochs and batches, whole batches of the training set alone."""

from pathlib import Path

import pytest

from fluxflow_exp.config.compose import typed
from fluxflow_exp.data.shapes import Shapes
from fluxflow_exp.errors import UserError
from fluxflow_exp.step_length import Length, length_of, lengths_of
from tests.conftest import toy


def test_updates_epochs_and_batches_count_from_one() -> None:
    length = Length(updates=7, updates_per_epoch=3, batch_size=8, micro_batch=8)
    assert [(length.epoch(u), length.batch(u)) for u in (1, 3, 4, 7)] == [(1, 1), (1, 3), (2, 1), (3, 1)]
    assert [update for update in range(1, 8) if length.ends_epoch(update)] == [3, 6, 7]


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
