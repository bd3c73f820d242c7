"""What is said of pictures that are small or long."""

from pathlib import Path

import pytest
from PIL import Image

from fluxflow_exp.data import size_notes
from fluxflow_exp.data.images import Entry, Images, ImageTransform
from tests.helpers.datasets import image_folder, noise, write_folder

SIZES = {"a.png": (64, 64), "b.png": (63, 200), "c.png": (193, 64), "d.png": (64, 192), "e.png": (32, 128)}


def source(folder: Path, transform: ImageTransform, sizes: dict[str, tuple[int, int]] = SIZES) -> Images:
    for name, size in sizes.items():
        Image.new("RGB", size).save(folder / name)
    entries = [Entry(name, "", name) for name in sizes]
    return Images(entries, folder.joinpath, transform, state_of=lambda place: None)


def test_small_and_long_pictures_are_counted(tmp_path: Path) -> None:
    assert size_notes.notes(source(tmp_path, ImageTransform(64))) == [
        "2 pictures are smaller than img_size=64 and enlarged (of 5 looked at): 'b.png', 'e.png'",
        "3 pictures are longer than 3:1 and cut to a part (of 5 looked at): 'b.png', 'c.png', 'e.png'",
    ]
    assert size_notes.notes(source(tmp_path, ImageTransform(32))) == [
        "3 pictures are longer than 3:1 and cut to a part (of 5 looked at): 'b.png', 'c.png', 'e.png'"
    ]


def test_with_buckets_a_picture_is_small_for_the_shape_it_is_trained_at(tmp_path: Path) -> None:
    """32 x 128 pixels are trained at 4:1, which 64² pixels allow without enlarging; a square would not."""
    assert size_notes.notes(source(tmp_path, ImageTransform(64, max_ratio=4.0))) == []


def test_a_sample_of_many_is_looked_at_and_what_has_no_header_is_left_to_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {f"{i}.png": (8, 8) for i in range(7)}
    images = source(tmp_path, ImageTransform(16), sizes)
    (tmp_path / "0.png").write_bytes(b"torn")
    monkeypatch.setattr(size_notes, "LOOKED_AT", 3)
    assert size_notes.notes(images) == [
        "2 pictures are smaller than img_size=16 and enlarged (of 2 looked at): '3.png', '6.png'"
    ]


def test_a_folder_says_it_in_its_notes(tmp_path: Path) -> None:
    write_folder(tmp_path, noise(30, (20, 16)))
    assert image_folder(tmp_path).notes == []
    (note,) = image_folder(tmp_path, img_size=32).notes
    assert "are smaller than img_size=32 and enlarged" in note
