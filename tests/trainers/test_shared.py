"""Ranks that look at the same weights together find and draw what one does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxflow_exp.data.protocols import BadSampleError
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine.portion import Portion
from fluxflow_exp.machine.ranks import Ranks
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.trainers import shared
from tests.helpers.networks import small_timm
from tests.helpers.threads import together
from tests.helpers.trainers import build

LOOKS = ["evaluation.images=7", "evaluation.prompts=6", "samples.count=5", "evaluation.metrics=[psnr]"]


def trainers(tmp_path: Path, step: str, count: int, *overrides: str) -> list[Any]:
    """As many trainers with the same weights."""
    return [build(tmp_path / f"trainer_{number}", step, *LOOKS, *overrides)[0] for number in range(count)]


def as_rank(trainer: Any, ranks: Ranks, folder: Path) -> Any:
    trainer.setup.folder = RunFolder(folder / f"run_{ranks.count}", first=ranks.first)
    trainer.setup.folder.samples.mkdir(parents=True, exist_ok=True)
    trainer.rows.path = trainer.setup.folder.path / "rows.jsonl"
    trainer.ranks = trainer.setup.ranks = ranks
    return trainer


def on_ranks(made: list[Any], folder: Path, action: Callable[[Any], Any]) -> list[Any]:
    return together(len(made), lambda ranks: action(as_rank(made[ranks.rank], ranks, folder)))


@pytest.mark.parametrize("step", ["vae", "flow"])
def test_held_out_metrics_and_pictures_are_those_of_one_rank(tmp_path: Path, step: str) -> None:
    four, found, drawn = trainers(tmp_path, step, 4), {}, {}
    for count in (1, 2, 4):
        made = four[:count]
        found[count] = on_ranks(made, tmp_path, lambda trainer: trainer.evaluate(last=True))[0]
        on_ranks(made, tmp_path, lambda trainer: trainer.sample_pictures("001"))
        samples = made[0].setup.folder.samples
        drawn[count] = {path.name: path.read_bytes() for path in samples.iterdir()}
    assert len(drawn[1]) == {"vae": 5 * 4 + 1, "flow": 5 + 1}[step]
    for count in (2, 4):
        assert found[count] == pytest.approx(found[1], rel=1e-6)
        assert drawn[count] == drawn[1]


@pytest.mark.slow
def test_measures_of_whole_sets_are_those_of_one_rank(tmp_path: Path) -> None:
    features = f"evaluation.features={small_timm(tmp_path / 'resnet')}"
    four = trainers(tmp_path, "flow", 4, "evaluation.metrics=[fd,kid,precision,recall,copies]", features)
    alone, *_ = on_ranks(four[:1], tmp_path, lambda trainer: trainer.evaluate(last=False))
    found, *_ = on_ranks(four[1:], tmp_path, lambda trainer: trainer.evaluate(last=False))
    assert {"val_fd", "val_kid", "val_precision", "val_recall", "val_copies"} < {*found}
    assert found == pytest.approx(alone, rel=1e-4, abs=1e-6)


def test_samples_that_cannot_be_read_are_left_out_on_every_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    four, seen = trainers(tmp_path, "flow", 4), {}
    for trainer in four:
        break_samples(trainer, {2, 3}, monkeypatch)
    for count, passed in ((1, 5), (2, 3), (4, 2)):  # the second of four ranks has none
        seen[count] = on_ranks(four[:count], tmp_path, held)
        assert {len(images) for images, *_ in seen[count]} == {passed}
    for count in (2, 4):
        assert [each for _, own, _ in seen[count] for each in own] == seen[1][0][1]
        assert seen[count][0][2] == pytest.approx(seen[1][0][2], rel=1e-6)


def held(trainer: Any) -> tuple[torch.Tensor, list[str], float]:
    """The images that a rank passes, the ids of its own, and the loss of all."""
    batch, portion = shared.measured(trainer.setup)
    with torch.no_grad():
        return batch.images, batch.ids[: portion.own], trainer.held_out_losses(batch, portion)["val_flow"]


def break_samples(trainer: Any, which: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    source = trainer.setup.data.validation
    read = source.read

    def reading(index: int, rng: Any) -> Any:
        if index in which:
            raise BadSampleError(str(index), "torn")
        return read(index, rng)

    monkeypatch.setattr(source, "read", reading)
    monkeypatch.setattr(trainer.setup.data, "max_bad_fraction", 1.0)


def test_that_none_can_be_read_is_said_on_every_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainers(tmp_path, "vae", 2)
    for trainer in made:
        break_samples(trainer, {*range(8)}, monkeypatch)

    def reason(trainer: Any) -> str:
        with pytest.raises(UserError) as caught:
            shared.measured(trainer.setup)
        return str(caught.value)

    assert (
        on_ranks(made, tmp_path, reason)
        == ["none of these samples can be read; the first: 0: torn. Check data.data_path"] * 2
    )


def test_of_two_pictures_of_one_name_the_last_one_stays(tmp_path: Path) -> None:
    made = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 8, 8) * 50

    def saved(ranks: Ranks) -> None:
        portion = Portion.even(ranks, 4)
        shared.save(made[portion.places], ["a.png", "b.png", "a.png", "c.png"], portion, tmp_path / str(ranks.count))

    for count in (1, 2, 4):
        together(count, saved)
    files = [{p.name: p.read_bytes() for p in (tmp_path / str(count)).iterdir()} for count in (1, 2, 4)]
    assert sorted(files[0]) == ["a.png", "b.png", "c.png"]
    assert files[0] == files[1] == files[2]
