"""Planted copies: a model that returns training pictures, their mirror images, its own pictures, noise."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fluxflow_exp.config.schema import Hardware
from fluxflow_exp.data.image_folder import ImageFolder
from fluxflow_exp.data.mixture import Mixture
from fluxflow_exp.data.protocols import unaugmented
from fluxflow_exp.evaluation import copies
from fluxflow_exp.evaluation.copies import CopyCheck, Found, Nearest, Through, kept, nearest, sentence, through
from fluxflow_exp.evaluation.features import Features
from fluxflow_exp.evaluation.retrieval import chance, retrieval
from fluxflow_exp.evaluation.training_pictures import TrainingPictures
from fluxflow_exp.machine.hardware import prepare
from fluxflow_exp.machine.portion import Portion
from fluxflow_exp.machine.ranks import Ranks
from tests.helpers.datasets import image_folder, noise, write_folder
from tests.helpers.threads import together

SIDE = 8


def track(parts: Iterable[Any], description: str, *, total: int) -> Iterable[Any]:
    return parts


def network() -> Features:
    """The pixels themselves."""
    model = nn.Flatten()
    model.register_parameter("place", nn.Parameter(torch.zeros(1)))  # by which the device is known
    return Features("pixels", model, lambda images: images.float(), about="")


def pictures(data: Any, places: range) -> Tensor:
    return torch.stack([data.train.read(place, None).image for place in places])


def random(n: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    """120 pictures, each with three sisters of the same drawing in other noise, as a subject has in other styles."""
    folder = tmp_path_factory.mktemp("data")
    drawn = random(120, 1).float()
    sisters = [(drawn + 25 * torch.randn(drawn.shape, generator=torch.Generator().manual_seed(i))) for i in range(4)]
    shown = torch.cat(sisters).clamp(0, 255).to(torch.uint8)
    write_folder(folder, [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in shown])
    return image_folder(folder, img_size=SIDE, validation_fraction=0.25)


def same(images: Tensor) -> Tensor:
    """An autoencoder that loses nothing."""
    return images


def check(data: ImageFolder, samples: Tensor, through: Through = same) -> tuple[CopyCheck, Found]:
    made = CopyCheck(TrainingPictures(data, count=1000), network(), through, track)
    return made, made(samples, held_out(data).split(50))


def held_out(data: ImageFolder) -> Tensor:
    return torch.stack([data.validation.read(i, None).image for i in range(len(data.validation))])  # type: ignore[arg-type]


def test_training_pictures_and_their_mirror_images_are_called_copies(data: ImageFolder) -> None:
    trained = pictures(data, range(40))
    for samples, mirrored in ((trained, False), (trained.flip(3), True)):
        found = check(data, samples)[1]
        assert found.rates["copies"] == 1
        assert 0.05 <= found.rates["copies_held_out"] < 0.07
        assert found.samples.distance.max() == 0
        assert (found.samples.row == torch.arange(40)).all()
        assert (found.samples.mirrored == mirrored).all()
        assert sentence(found).startswith("copies found: 40 of 40 samples")
        assert "the model copies" in sentence(found)


def test_new_pictures_of_what_was_trained_are_no_copies_and_neither_is_noise(data: ImageFolder) -> None:
    found = check(data, held_out(data))[1]
    assert found.rates["copies"] == pytest.approx(0.05, abs=0.04)
    assert "no more than of pictures that were never seen" in sentence(found)
    found = check(data, random(100, 7))[1]
    assert found.rates["copies"] == 0
    assert found.distances["samples"] > 5 * found.distances["held_out"]
    assert sentence(found).startswith(
        "no copies found: 0 of 100 samples are as near to a training picture as the nearest"
    )


def test_noise_finds_the_held_out_pictures_by_chance(data: ImageFolder) -> None:
    real, names = network()(held_out(data)), [entry.id for entry in data.validation.entries]
    found = [retrieval(real, network()(random(len(names), seed)), names, names, among=5) for seed in range(20)]
    assert torch.tensor(found).mean() == pytest.approx(chance(names, names, among=5), abs=0.01)


def test_a_few_copies_among_new_pictures_are_the_closest_pairs(data: ImageFolder) -> None:
    samples = random(60, 3)
    samples[[7, 31]] = pictures(data, range(5, 7)).flip(3)
    made, found = check(data, samples)
    assert found.rates["copies"] == pytest.approx(2 / 60)
    first, second, *others = made.pairs(found, samples, [f"prompt {i}" for i in range(60)])
    assert {(first.prompt, first.name), (second.prompt, second.name)} == {
        (f"prompt {i}", data.train.entries[place].id) for i, place in ((7, 5), (31, 6))
    }
    assert first.mirrored
    assert torch.equal(first.sample, first.training.flip(2))
    assert first.caption == f"picture {first.name.removesuffix('.png')}"
    assert len(others) == copies.PAIRS - 2
    assert len({pair.name for pair in others}) == len(others), "each training picture once"
    facts, images = kept(found, [first, second])
    assert [pair["distance"] for pair in facts["pairs"]] == [0, 0]
    assert torch.equal(images[facts["pairs"][0]["sample"]], first.sample)
    assert facts["threshold"] == found.threshold


def test_what_the_autoencoder_loses_parts_no_copy_from_its_original(data: ImageFolder) -> None:
    def blurred(images: Tensor) -> Tensor:
        small = nn.functional.avg_pool2d(images.float(), 2)
        return nn.functional.interpolate(small, scale_factor=2).to(torch.uint8)

    copied = blurred(pictures(data, range(40)))
    assert check(data, copied, blurred)[1].rates["copies"] == 1
    assert check(data, copied)[1].rates["copies"] < 0.1, "held against the originals"
    made, found = check(data, copied, blurred)
    assert torch.equal(made.pairs(found, copied, ["a"] * 40)[0].training, pictures(data, range(40))[0]), "is shown"


def test_an_autoencoder_passes_pictures_as_generation_does() -> None:
    machine = prepare(Hardware(name="cpu", device="cpu", precision="fp32"), computes=False)
    doubled = through(lambda images: Constant(2 * images), lambda latents: latents / 4, machine)
    images = random(3)
    expected = (((images.float() / 127.5 - 1) / 2 + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(doubled(images), expected)


class Constant:
    def __init__(self, value: Tensor) -> None:
        self.value = value

    def mode(self) -> Tensor:
        return self.value


def test_the_nearest_is_that_of_a_plain_search_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "CHUNK", 7)
    source = torch.Generator().manual_seed(0)
    training, plain, mirrored = (torch.randn(n, 12, generator=source) for n in (30, 9, 9))
    found = nearest(torch.stack([plain, mirrored]), training)
    scale = (training - training.mean(0)) / training.std(0, correction=0)
    for i in range(9):
        each = [(x[i] - training.mean(0)) / training.std(0, correction=0) for x in (plain, mirrored)]
        cosines = torch.stack([nn.functional.cosine_similarity(x[None], scale) for x in each])
        assert found.distance[i] == pytest.approx(1 - float(cosines.max()), abs=1e-5)
        assert (int(found.mirrored[i]), int(found.row[i])) == divmod(int(cosines.argmax()), 30)


def test_held_out_pictures_that_are_training_pictures_raise_their_rate_not_the_threshold() -> None:
    row, turned = torch.zeros(10, dtype=torch.long), torch.zeros(10, dtype=torch.bool)
    held_out = Nearest(torch.tensor([0.0] * 3 + [0.5] * 7), row, turned)
    found = Found(Nearest(torch.tensor([0.0] * 4 + [0.4] * 6), row, turned), held_out)
    assert (found.threshold, found.rates) == (0, {"copies": 0.4, "copies_held_out": 0.3})


def test_some_of_the_training_pictures_are_looked_through_and_which_is_said(data: ImageFolder) -> None:
    few, again = (TrainingPictures(data, count=50) for _ in range(2))
    assert few.features(network(), track).shape == (50, 3 * SIDE * SIDE)
    assert few.record["name"] == f"50 of {len(data.train)}"
    again.features(network(), track)
    assert few.record == again.record
    other = TrainingPictures(data, count=51)
    other.features(network(), track)
    assert other.record["digest"] != few.record["digest"]
    assert list(few.places) == sorted(set(few.places))
    assert few.sample(3).id == data.train.entries[few.places[3]].id


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    write_folder(tmp_path, noise(12, (SIDE, SIDE)))
    data = image_folder(tmp_path, img_size=SIDE, validation_fraction=0.3)
    lost = data.train.entries[2].id
    (tmp_path / "images" / lost).write_bytes(b"no picture")
    training = TrainingPictures(data, count=100)
    assert len(training.features(network(), track)) == len(data.train) - 1
    assert training.record["name"] == f"{len(data.train) - 1} of {len(data.train)}"
    assert training.sample(2).id == data.train.entries[3].id
    for entry in data.train.entries:
        (tmp_path / "images" / entry.id).unlink()
    with pytest.raises(ValueError, match=r"none of .* training pictures can be read"):
        TrainingPictures(data, count=100).features(network(), track)


def test_training_pictures_are_looked_at_as_they_are(tmp_path: Path) -> None:
    write_folder(tmp_path, noise(30, (40, 24)))
    plain = image_folder(tmp_path, img_size=32)
    for options in ({"crop": "random", "flip": True}, {"buckets": 2.0}, {"reduced_min_sizes": [16]}):
        data = image_folder(tmp_path, img_size=32, **options)
        assert len(unaugmented(data.train)) == len(data.train.entries)
        assert torch.equal(unaugmented(data.train).read(3, None).image, plain.train.read(3, None).image)
    mixed = Mixture({"a": plain, "b": plain, "c": plain}, {"a": 1, "b": 0.5, "c": 0})
    training = TrainingPictures(mixed, count=100)
    training.features(network(), track)
    assert training.record["name"] == f"{2 * len(plain.train)} of {2 * len(plain.train)}", "each once, undrawn ones not"


@pytest.mark.parametrize("count", [2, 4])
def test_ranks_find_what_one_does(data: ImageFolder, count: int) -> None:
    shown, samples = held_out(data), torch.cat([pictures(data, range(5)), random(6, 9)])
    made, whole = check(data, samples)

    def found(ranks: Ranks) -> tuple[Any, ...]:
        drawn, seen = Portion.even(ranks, len(samples)), Portion.even(ranks, len(shown))
        mine = CopyCheck(TrainingPictures(data, count=1000), network(), same, track)
        given = samples[drawn.places], [shown[seen.places]]
        twice = [mine.divided(*given, drawn=drawn, seen=seen) for _ in range(2)]
        return (*twice, mine.training.places)

    first, *others = together(count, found)
    assert first[0] is not None
    for part in first[:2]:
        for one, other in zip((*part.samples, *part.held_out), (*whole.samples, *whole.held_out), strict=True):
            assert torch.equal(one, other)
    assert all(each[:2] == (None, None) for each in others)
    assert {tuple(each[2]) for each in (first, *others)} == {tuple(made.training.places)}
