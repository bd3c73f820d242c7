"""Copies are found whatever was done to them, and pictures that are no copies are not."""

import random
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from fluxflow_exp.data.check import duplicates
from fluxflow_exp.data.check.duplicates import Array, Groups, Pair, pairs
from fluxflow_exp.data.check.look import KEPT, kept_of
from fluxflow_exp.data.shapes import Shapes
from tests.data.check.test_command import picture

COUNT = 60


def compressed(image: Image.Image) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=20)
    return Image.open(BytesIO(buffer.getvalue()))


def digests(count: int) -> Array:
    """All different."""
    return np.arange(count, dtype=np.uint64).repeat(2).view(np.uint8).reshape(count, 16)


@pytest.mark.parametrize(
    "changed",
    [
        compressed,
        lambda image: image.resize((60, 45)),
        lambda image: image.crop((2, 2, 190, 142)),
        lambda image: ImageEnhance.Contrast(image).enhance(0.85),
        lambda image: ImageEnhance.Brightness(image).enhance(1.1),
        lambda image: ImageEnhance.Brightness(ImageEnhance.Contrast(image).enhance(1.15)).enhance(0.85),
        ImageOps.mirror,
    ],
    ids=["compressed", "smaller", "cut", "paler", "brighter", "darker", "mirrored"],
)
def test_changed_copies_are_found_and_no_others(changed: Callable[[Image.Image], Image.Image]) -> None:
    images = [picture(seed, (192, 144)) for seed in range(COUNT)]
    kept = np.stack([kept_of(image) for image in [*images, *(changed(image).convert("RGB") for image in images)]])
    found = pairs(digests(2 * COUNT), kept)
    assert {(pair.first, pair.second) for pair in found} == {(seed, seed + COUNT) for seed in range(COUNT)}
    assert {pair.mirrored for pair in found} == {changed is ImageOps.mirror}


def dot(colour: tuple[int, int, int], *, brightness: float = 110.0) -> Image.Image:
    """A dot on white, a twelfth of the picture, of about that brightness."""
    image = Image.new("RGB", (192, 192), "white")
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    lit = tuple(int(np.clip(value + brightness - luma, 0, 255)) for value in colour)
    ImageDraw.Draw(image).ellipse((40, 60, 100, 120), fill=lit)
    return image


def test_pictures_that_differ_by_colour_alone_are_no_copies() -> None:
    photos = [picture(seed, (192, 144)).convert("YCbCr").split() for seed in range(20)]
    recoloured = [Image.merge("YCbCr", (y, cr, cb)).convert("RGB") for y, cb, cr in photos]
    plain = [Image.merge("YCbCr", bands).convert("RGB") for bands in photos]
    dots = [dot(colour) for colour in ((220, 60, 60), (70, 90, 220), (60, 160, 60), (120, 110, 105))]
    kept = np.stack([kept_of(image) for image in [*plain, *recoloured, *dots]])
    brightness = kept[-4:, :256].astype(int)
    assert np.abs(brightness - brightness[0]).mean(1).max() < 2, "they differ by colour alone"
    assert pairs(digests(len(kept)), kept) == []
    same = np.concatenate([kept, kept_of(compressed(dots[1]).convert("RGB"))[None]])
    assert [(pair.first, pair.second) for pair in pairs(digests(len(same)), same)] == [(41, 44)]


def test_much_brighter_pictures_are_no_copies() -> None:
    """Nor are those that are darker in one half: brightness is evened out of whole pictures."""
    images = [picture(seed, (192, 144)) for seed in range(10)]
    half = Image.linear_gradient("L").resize((192, 144)).point(lambda value: 255 * (value > 127))
    others = [ImageEnhance.Brightness(image).enhance(0.7) for image in images]
    others += [Image.composite(ImageEnhance.Brightness(image).enhance(0.5), image, half) for image in images]
    kept = np.stack([kept_of(image) for image in [*images, *others]])
    assert pairs(digests(len(kept)), kept) == []


def test_different_drawings_are_no_copies() -> None:
    """Those with the same words may lie upon each other; of others none do."""
    drawings = Shapes(n_images=1000, img_size=32).train
    samples = [drawings.read(index, random.Random(0)) for index in range(1000)]
    kept = np.stack([kept_of(Image.fromarray(each.image.permute(1, 2, 0).numpy())) for each in samples])
    found = pairs(digests(len(kept)), kept)
    assert found
    assert all(samples[pair.first].caption == samples[pair.second].caption for pair in found)


def test_files_with_the_same_bytes_are_pairs_with_the_first_and_one_colour_is_no_likeness() -> None:
    same = digests(6)
    same[[2, 4]] = same[1]
    kept = np.stack([kept_of(picture(seed)) for seed in range(6)])
    kept[[2, 4]] = kept[1]
    kept[[3, 5]] = 200
    assert pairs(same, kept) == [Pair(1, 2, exact=True), Pair(1, 4, exact=True)]
    assert pairs(same[:0], kept[:0]) == []
    assert kept.shape[1] == KEPT


def test_many_copies_of_one_picture_are_one_group_in_fewer_pairs_than_pictures() -> None:
    """Each is compared with few neighbours, and chains connect them."""
    rng = np.random.default_rng(0)
    count = 4 * duplicates.NEIGHBOURS
    kept = kept_of(picture(0)).astype(int) + rng.integers(-2, 3, (count, KEPT))
    found = pairs(digests(count), kept.clip(0, 255).astype(np.uint8))
    assert len(found) < count
    sets = Groups(count)
    for pair in found:
        sets.join(pair.first, pair.second)
    assert [len(members) for members in sets.members()] == [count]


def test_a_bit_differs_with_the_probability_of_the_angle() -> None:
    """Charikar's equation 2; a mean makes none."""
    rng = np.random.default_rng(0)
    planes = rng.standard_normal((16, 16, 64), np.float32)
    one, other = kept_of(picture(0)), kept_of(Image.blend(picture(0), picture(1), 0.4))
    cells = [each[:256].astype(float) - each[:256].mean() for each in (one, other)]
    angle = np.arccos(cells[0] @ cells[1] / np.sqrt((cells[0] ** 2).sum() * (cells[1] ** 2).sum()))
    differ = 0
    for _ in range(100):
        planes = rng.standard_normal((16, 16, 64), np.float32)
        found = duplicates.hashes(np.stack([one, other, one // 2 + 90, one // 2]), planes)
        differ += int(found[0] ^ found[1]).bit_count()
        assert found[2] == found[3]
    assert differ / 6400 == pytest.approx(angle / np.pi, abs=0.02)
    mirrored = np.stack([kept_of(ImageOps.mirror(picture(0)))])
    assert (
        int(duplicates.hashes(mirrored, planes)[0] ^ duplicates.hashes(one[None], planes[:, ::-1])[0]).bit_count() <= 1
    )


def test_groups_are_chains_of_links() -> None:
    sets = Groups(7)
    assert [sets.join(*link) for link in ((5, 2), (3, 5), (2, 3), (6, 0))] == [True, True, False, True]
    assert sets.members() == [[0, 6], [2, 3, 5]]
