"""What a check foretells is what training then does: what it refuses, what it stops over, how long its epochs are."""

import re
from pathlib import Path

import pytest

from fluxflow_exp.data.check.command import cli
from fluxflow_exp.data.check.page import LINES
from fluxflow_exp.data.folder_notes import unusable
from fluxflow_exp.data.image_folder import ImageFolder
from tests.data.check.test_command import picture

COUNT = 40


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("output") / "photos"
    root.mkdir()
    for number in range(COUNT):
        picture(number).save(root / f"{number}.png")
    return root


def said_of(photos: Path, names: list[str], capsys: pytest.CaptureFixture[str], code: int, *, epochs: int = 2) -> str:
    """What a check of the pictures, with a caption of each of `names`, has to say."""
    captions = photos.parent / "captions.tsv"
    captions.write_text("".join(f"{name}\ta kite\n" for name in names))
    assert checked(photos, captions, "--img_size", "32", "--batch_size", "4", "--epochs", epochs) == code
    return capsys.readouterr().out


def checked(photos: Path, *words: object) -> int:
    given = [str(photos), *map(str, words), "--workers", "1", "--output", str(photos.parent / "page.html")]
    return cli(given)


def names_of(count: int) -> list[str]:
    return [f"{number}.png" for number in range(count)]


def test_the_numbers_are_those_of_training_which_counts_missing_pictures_too(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_of(photos, [*names_of(COUNT), "gone.png"], capsys, 1)
    data = ImageFolder(data_path=str(photos), captions_file=str(photos.parent / "captions.tsv"), img_size=32)
    trained, held_out = len(data.train), len(data.validation)
    assert trained + held_out == COUNT + 1
    assert f"{trained} captioned pictures to train on and {held_out} held out, as the plan" in said
    assert "1 of them missing or unreadable" in said
    assert f"{trained} samples / 4 = {trained // 4} updates an epoch; {2 * (trained // 4)} updates in all" in said


def test_thousands_of_epochs_are_counted_in_full(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(r"in which each is seen 3\d{3} times", said_of(photos, names_of(COUNT), capsys, 0, epochs=4000))


def test_what_training_refuses_is_said_to_be_refused(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = [f"gone{number}.png" for number in range(LINES + 8)]
    said = said_of(photos, [*names_of(COUNT), *gone], capsys, 1)
    with pytest.raises(ValueError, match="20 pictures are not in") as refused:
        ImageFolder(data_path=str(photos), captions_file=str(photos.parent / "captions.tsv"))
    assert f"training\n  refused: {refused.value}\n" in said
    assert "updates" not in said
    page = (photos.parent / "page.html").read_text(encoding="utf-8")
    page = page[page.index(">captions without a picture <small>") :]
    assert page.count("<li>", 0, page.index("</ul>")) == LINES
    assert f"{LINES + 8}, the first {LINES} of them shown" in page


def test_so_many_unreadable_pictures_that_training_stops_are_said_to_stop_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    for number in range(20):
        picture(number).save(root / f"{number}.png")
    (root / "1.png").write_text("no picture")
    assert "training stops" not in said_of(root, names_of(20), capsys, 1), "one in twenty may be bad"
    (root / "2.png").write_text("no picture")
    said = said_of(root, names_of(20), capsys, 1)
    assert "training stops once it has met them: 2 of 20 samples cannot be read" in said


def test_a_folder_without_captions_is_refused_and_the_forms_are_named(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(photos) == 1
    said = capsys.readouterr().out
    assert f"lost to training\n{COUNT:>9}  pictures without a caption\n" in said
    assert "data=image_folder refuses a folder without captions: give a file (name<TAB>caption lines" in said
    assert "  refused: there are no captions\n" in said


def test_a_folder_in_place_of_the_captions_is_named_as_such(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(photos, photos) == 2
    assert f"captions_file: {photos} is a folder, and captions are a file (" in capsys.readouterr().err
    words = ["stage=vae", "data=image_folder", f"data.data_path={photos}"]
    assert cli([*words, f"data.captions_file={photos}"]) == 2
    assert f"data.captions_file: {photos} is a folder, and captions are a file (" in capsys.readouterr().err
    assert cli(words) == 2
    assert "data.captions_file is not set: it is a file (name<TAB>caption lines" in capsys.readouterr().err


def test_one_is_not_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(0).save(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("a kite")
    assert checked(tmp_path) == 0
    assert "1 picture, 1 caption (sidecar)" in capsys.readouterr().out
    assert unusable([("train/0", "no picture")], "row") == ["1 row cannot be used: train/0: no picture"]
