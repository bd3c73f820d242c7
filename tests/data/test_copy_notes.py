"""What is said of copies on both sides of the held-out split before a run."""

import shutil
from pathlib import Path

import pytest

from fluxflow_exp.data import copy_notes
from fluxflow_exp.data.images import is_held_out
from tests.helpers.datasets import image_folder, noise, write_folder

HELD_OUT = next(number for number in range(30) if is_held_out(f"{number}.png", 0.1))
TRAINED = next(number for number in range(30) if not is_held_out(f"{number}.png", 0.1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path, noise(30, (20, 16)))
    return tmp_path


def told(folder: Path) -> list[str]:
    return [note for note in image_folder(folder).notes if "byte for byte" in note]


def test_a_held_out_picture_that_is_trained_on_is_named(folder: Path) -> None:
    assert told(folder) == []
    shutil.copy(folder / "images" / f"{TRAINED}.png", folder / "images" / f"{HELD_OUT}.png")
    (note,) = told(folder)
    assert note.startswith(
        "at least 1 held-out picture is trained on under another name, byte for byte "
        f"('{HELD_OUT}.png' is '{TRAINED}.png'): "
    )


def test_a_file_of_the_same_size_is_no_copy_and_one_that_cannot_be_read_is_no_trouble(folder: Path) -> None:
    whole = (folder / "images" / f"{TRAINED}.png").read_bytes()
    (folder / "images" / f"{HELD_OUT}.png").write_bytes(whole[:-1] + b"x")
    assert told(folder) == []
    (folder / "images" / f"{HELD_OUT}.png").unlink()
    (folder / "images" / f"{HELD_OUT}.png").mkdir()
    assert told(folder) == []


def test_little_is_read_of_a_large_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(folder / "images" / f"{TRAINED}.png", folder / "images" / f"{HELD_OUT}.png")
    for name, few in (("MOST_PICTURES", 29), ("MOST_READ", 1)):
        with monkeypatch.context() as patched:
            patched.setattr(copy_notes, name, few)
            assert told(folder) == []
