"""A folder with captions: parsing, splitting, bad files."""

import errno
import hashlib
import json
import os
import pickle
import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

from fluxflow_exp import main
from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.data.folder_notes import Listing
from fluxflow_exp.data.images import Entry, Images, ImageTransform, is_held_out
from fluxflow_exp.data.protocols import BadSampleError
from fluxflow_exp.errors import UserError
from tests.helpers.datasets import image_folder, write_folder


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path, [Image.new("RGB", (20, 16), (8 * i, 0, 0)) for i in range(30)])
    return tmp_path


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "a\0b.png", "loop.png", "folder.png", "file.png/a.png"])
def test_a_name_that_cannot_be_looked_up_loses_one_sample(folder, name):
    images = folder / "images"
    (images / "loop.png").symlink_to("loop.png")
    (images / "folder.png").mkdir()
    (images / "file.png").touch()
    with (folder / "captions.tsv").open("a") as file:
        file.write(f"\n{name}\ta caption")
    data = image_folder(folder, validation_fraction=0.3)
    assert len(data.train.fingerprint()) == 64
    source = next(s for s in (data.train, data.validation) if name in {e.id for e in s.entries})
    with pytest.raises(BadSampleError):
        source.read(len(source) - 1, random.Random(0))


def test_the_split_is_by_hash_of_the_name(folder):
    data = image_folder(folder)
    held_out = {e.id for e in data.validation.entries}
    assert held_out == {
        f"{i}.png" for i in range(30) if int(hashlib.sha256(f"{i}.png".encode()).hexdigest(), 16) % 10 == 0
    }
    assert len(data.train) + len(data.validation) == 30
    share = sum(is_held_out(f"name{i}", 0.15) for i in range(4000)) / 4000
    assert share == pytest.approx(0.15, abs=0.02)


def test_what_a_fraction_holds_out_a_larger_one_of_its_row_does_too() -> None:
    names = [f"{i}.png" for i in range(4000)]
    held_out = {f: {name for name in names if is_held_out(name, f)} for f in (0.01, 0.05, 0.1, 0.15, 0.2, 0.3)}
    for row in ((0.01, 0.05, 0.1, 0.2), (0.15, 0.3)):
        assert all(held_out[less] < held_out[more] for less, more in pairwise(row))
    shared = len(held_out[0.1] & held_out[0.15]) / len(held_out[0.1])
    assert shared == pytest.approx(0.15, abs=0.06), "of another row by chance alone"


def apart(folder: Path, held_out: str) -> Path:
    """The last ten pictures in a file of their own that ends with `held_out`, the others in the captions file."""
    lines = [f"{i}.png\tpicture {i}" for i in range(30)]
    captions_of(folder, lines[:20])
    path = folder / "held_out.tsv"
    path.write_text("".join(f"{line}\n" for line in lines[20:]) + held_out, encoding="utf-8")
    return path


def test_a_file_says_what_is_held_out(folder: Path) -> None:
    data = image_folder(folder, held_out_file=str(apart(folder, "no tab\n")), fixed_prompt_prefix="a")
    assert [entry.id for entry in data.train.entries] == [f"{i}.png" for i in range(20)]
    assert [entry.id for entry in data.validation.entries] == [f"{i}.png" for i in range(20, 30)], "in its order"
    assert data.prompts == [f"a. picture {i}" for i in range(20, 30)]
    assert data.bad == [("held_out.tsv:11", "no tab between name and caption")]
    assert len(data.notes) == 1, "the held-out pictures have captions"


def grouped(folder: Path, path: str, pictures: range, groups: dict[int, str]) -> Path:
    """Metadata of some of the pictures, with the groups that some of them are in."""
    rows = [{"file_name": f"{i}.png", "text": f"picture {i}", "split_group": groups.get(i)} for i in pictures]
    (folder / path).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder / path


def test_a_group_is_never_on_both_sides_and_moves_no_other_picture(folder: Path) -> None:
    alone = {entry.id for entry in image_folder(folder, validation_fraction=0.3).validation.entries}
    trained = next(i for i in range(30) if f"{i}.png" not in alone)
    groups = dict.fromkeys([*(int(name.removesuffix(".png")) for name in sorted(alone)[:2]), 11, 12, trained], "0.png")
    path = grouped(folder, "m.jsonl", range(30), groups)
    data = image_folder(folder, validation_fraction=0.3, captions_file=str(path))
    sides = [{entry.id for entry in source.entries} for source in (data.train, data.validation)]
    together = {f"{i}.png" for i in groups}
    assert any(together <= side for side in sides)
    assert sides[1] - together == alone - together
    assert data.train.fingerprint() != image_folder(folder, validation_fraction=0.3).train.fingerprint()
    plain = image_folder(folder, captions_file=str(grouped(folder, "n.jsonl", range(30), {})))
    assert plain.train.fingerprint() == image_folder(folder).train.fingerprint(), "without groups nothing is another"


def test_a_group_that_is_held_out_and_trained_on_is_refused(folder: Path) -> None:
    first, second = (
        grouped(folder, "m.jsonl", range(20), {3: "x"}),
        grouped(folder, "n.jsonl", range(20, 30), {25: "x"}),
    )
    with pytest.raises(ValueError, match=r"held_out_file: 1 of its pictures, '25\.png' the first, share a split_group"):
        image_folder(folder, captions_file=str(first), held_out_file=str(second))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3.png\tpicture 3\n4.png\tone", "held_out_file: 2 of its names stand in the captions_file, too, '3.png' the"),
        ("gone.png\ta kite\nlost.png\ta boat", r"2 pictures are not in .*'gone.png', 'lost.png' \(32 captions"),
    ],
)
def test_what_is_wrong_with_the_file_of_what_is_held_out_is_said(folder: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_folder(folder, held_out_file=str(apart(folder, line)))
    with pytest.raises(ValueError, match=r"held_out_file: there is no file .*none\.tsv"):
        image_folder(folder, held_out_file=str(folder / "none.tsv"))


def test_a_run_judges_what_a_file_says_is_held_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["stage=vae", "stage.steps.vae.batch_size=4", "data=image_folder", f"data.data_path={folder / 'images'}"]
    words += [f"data.captions_file={folder / 'captions.tsv'}", "data.img_size=16", "hardware=cpu", "validate=true"]
    words += [f"+data.held_out_file={apart(folder, '')}", f"output_root={tmp_path / 'out'}"]
    main.train(resolve(compose_config(words)))
    assert "20 training and 10 held-out images" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"data\.held_out_file: there is no file gone"):
        main.train(resolve(compose_config([*words, "data.held_out_file=gone"])))


def test_a_sample_is_square_and_carries_its_caption(folder):
    sample = image_folder(folder).train.read(0, random.Random(0))
    assert sample.image.shape == (3, 16, 16)
    assert sample.caption == f"picture {sample.id.removesuffix('.png')}"


def test_another_process_reads_the_same(folder):
    source = image_folder(folder).train
    sent = pickle.loads(pickle.dumps(source))
    assert torch.equal(sent.read(2, random.Random(0)).image, source.read(2, random.Random(0)).image)
    assert sent.fingerprint() == source.fingerprint()


def test_a_missing_file_is_a_bad_sample(folder):
    data = image_folder(folder)
    (folder / "images" / data.train.entries[3].id).unlink()
    with pytest.raises(BadSampleError, match="there is no such file"):
        data.train.read(3, random.Random(0))


def test_random_crops_and_flips_follow_the_generator(folder):
    image = Image.new("RGB", (64, 16))
    for x in range(64):
        image.paste((4 * x, 0, 0), (x, 0, x + 1, 16))
    data = image_folder(folder, crop="random", flip=True)
    image.save(folder / "images" / data.train.entries[0].id)
    reads = [data.train.read(0, random.Random(k)).image for k in range(20)]
    assert (data.train.read(0, random.Random(3)).image == reads[3]).all()
    lefts = {int(r[0, 0, 0]) for r in reads}
    assert len(lefts) > 10
    falling = [bool(r[0, 0, 0] > r[0, 0, -1]) for r in reads]
    assert 3 < sum(falling) < 17


@pytest.mark.parametrize(
    ("text", "message"),
    [(b"", "no line of the form"), (b"a.png\t\xff\xfe\n", "not UTF-8"), (b"a.png\tone\n", "some of both")],
)
def test_unusable_captions_are_one_clear_error(folder, text, message):
    (folder / "captions.tsv").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        image_folder(folder)


def test_a_missing_captions_file_is_named(folder):
    (folder / "captions.tsv").unlink()
    with pytest.raises(ValueError, match=r"there is no file .*captions\.tsv"):
        image_folder(folder)


def captions_of(folder, lines):
    (folder / "captions.tsv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        (lambda i: f"{i}.jpg", "the extension is another one there ('0.png' for '0.jpg')"),
        (lambda i: f"images/{i}.png", "the names begin with images/, and data_path is that folder"),
        (lambda i: f"photos/{i}.png", "the names begin with photos/, and the files stand in data_path itself"),
        (lambda i: f"{i}.PNG", "upper and lower case differ ('0.png' for '0.PNG')"),
        (lambda i: f'"{i}.png"', "quotes belong to the names here"),
        (lambda i: f"deep\\{i}.png", "the names have backslashes where a slash parts folders"),
        (lambda i: f"C:\\in\\deep\\{i}.png", "relative to data_path, and C:/in/ is no part of that"),
        (lambda i: f"ü{i}.png", "the files' names are Unicode NFD"),
        (lambda i: f"a%20{i}.png", "written as in addresses of the web, and the files' are not ('a 0.png' for"),
        (lambda i: f"d{i}.png", "the files stand elsewhere in it ('deep/d0.png' for 'd0.png')"),
    ],
)
def test_names_that_no_picture_has_are_refused_with_the_cause(folder, name, cause):
    (folder / "images" / "deep").mkdir()
    for i in range(30):
        for there in (f"deep/{i}.png", f"deep/d{i}.png", f"u\u0308{i}.png", f"a {i}.png"):
            (folder / "images" / there).touch()
    captions_of(folder, [f"{name(i)}\tpicture {i}" for i in range(30)])
    with pytest.raises(ValueError, match="30 pictures are not in") as caught:
        image_folder(folder)
    assert cause in str(caught.value)


def test_what_is_odd_about_names_and_captions_is_said(folder):
    (folder / "images" / "lonely.png").touch()
    (folder / "images" / "list.txt").touch()
    lines = [f"{i}.png\tpicture {i}" for i in range(30)]
    captions_of(folder, [*lines, "0.png\tpicture 0", "1.png\tanother caption", "gone.png\ta kite", "2.png\t", "no tab"])
    notes = image_folder(folder, max_bad_fraction=0.2).notes
    assert notes == [
        f"1 picture is not in {folder / 'images'}: 'gone.png'",
        "1 caption is empty: '2.png'",
        "1 line is there more than once: '0.png'",
        f"1 picture is without a caption in {folder / 'images'}, and not trained on: 'lonely.png'",
        "2 of 32 pictures have several captions, 2.0 on average: one is chosen by weight each time, of held-out "
        "pictures the heaviest stands",
        "1 caption cannot be used: captions.tsv:35: no tab between name and caption",
    ]
    assert image_folder(folder, max_bad_fraction=0.2, fixed_prompt_prefix="a").notes == notes
    captions_of(folder, lines)
    (folder / "images" / "lonely.png").rename(folder / "images" / "._0.png")  # as macOS leaves them behind
    assert image_folder(folder).notes == []
    captions_of(folder, ["Image\tcaption", *lines])
    assert (
        image_folder(folder)
        .notes[0]
        .endswith("Cause: the first line names columns, and is read as a picture: take it away")
    )
    captions_of(folder, [*lines[:27], "x.png\tone", "y.png\ttwo", "27.png\tthree"])
    with pytest.raises(ValueError, match=r"2 pictures are not in .* \(30 captions; max_bad_fraction=0.05 may be bad\)"):
        image_folder(folder)


def test_the_plan_says_what_is_odd(folder, tmp_path, capsys):
    with (folder / "captions.tsv").open("a") as file:
        file.write("\ngone.png\ta kite")
    words = ["stage=vae", "stage.steps.vae.batch_size=4", "data=image_folder", f"data.data_path={folder / 'images'}"]
    words += [f"data.captions_file={folder / 'captions.tsv'}", "data.img_size=16", "hardware=cpu", "validate=true"]
    main.train(resolve(compose_config([*words, f"output_root={tmp_path / 'out'}"])))
    assert f"    note: 1 picture is not in {folder / 'images'}: 'gone.png'\n" in capsys.readouterr().out


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EIO, "I/O error")])
def test_a_folder_that_may_be_read_and_not_listed_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    (tmp_path / "a.png").touch()

    def fails(folder: Path) -> None:
        raise error

    monkeypatch.setattr(os, "scandir", fails)
    if error.errno == errno.EIO:
        with pytest.raises(OSError, match="I/O error"):
            Listing(tmp_path, ["a.png"])
        return
    listing = Listing(tmp_path, ["a.png", "b.png"])
    assert [name for name in ("a.png", "b.png") if listing.holds(name)] == ["a.png"]
    assert listing.pictures() == []


def test_a_fingerprint_stays_what_it_was() -> None:
    """Runs are continued only on data of the same fingerprint: nothing renamed here may change it."""
    source = Images([Entry("a", "a cat", "a")], Path, ImageTransform(16, flip=True), state_of=lambda place: None)
    assert source.fingerprint(times=False) == "16c6efb36d4e6908124fe715acecf5e8772e20c721f22d444fc5eee1bccbee2f"


def test_a_folder_of_folders_with_captions_beside_the_pictures_trains_and_its_plan_says_what_is_odd(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    for i in range(30):
        inner = photos / f"album {i % 3}" / "deep"
        inner.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (8 * i, 0, 0)).save(inner / f"{i}.png")
        (inner / f"{i}.txt").write_bytes(f"\ufeffpicture\r\n{i}\r\n".encode())
    (photos / "album 0" / "deep" / "0.txt").unlink()
    (photos / "album 1" / "deep" / "1.txt").write_text(" \n")
    (photos / "album 2" / "deep" / "2.txt").write_bytes(b"\xff")
    (photos / "notes.txt").touch()
    (photos / "empty").mkdir()
    Image.new("RGB", (16, 16)).save(photos / "empty" / "lonely.png")
    words = ["stage=vae", "stage.steps.vae.batch_size=4", "data=image_folder", f"data.data_path={photos}"]
    words += ["data.captions_file=sidecar", "data.img_size=16", "hardware=cpu", "validate=true"]
    main.train(resolve(compose_config([*words, f"output_root={tmp_path / 'out'}", "data.validation_fraction=0.2"])))
    said = capsys.readouterr().out
    assert f"note: 1 text file is without a picture in {photos}: 'notes.txt'" in said
    assert "note: 1 caption is empty: 'album 1/deep/1.png'" in said
    assert "note: 3 pictures are without a caption in" in said
    assert "note: 1 caption cannot be used: album 2/deep/2.txt: is not UTF-8 text (byte 0)" in said
    data = image_folder(tmp_path, data_path=str(photos), captions_file="sidecar", validation_fraction=0.2)
    names = {f"album {i % 3}/deep/{i}.png" for i in range(30) if i not in (0, 2)}
    assert {entry.id for source in (data.train, data.validation) for entry in source.entries} == names
    assert {entry.id for entry in data.validation.entries} == {name for name in names if is_held_out(name, 0.2)}
    assert data.train.read(0, random.Random(0)).caption == "picture 12", "the first of the first folder's"


def test_what_is_held_out_comes_in_the_same_forms(folder: Path) -> None:
    images = folder / "images"
    (images / "validation").mkdir()
    for i in range(20, 30):
        (images / f"{i}.png").rename(images / "validation" / f"{i}.png")
    table = "".join(f'{i}.png,"picture, {i}"\n' for i in range(20, 30))
    (images / "validation" / "metadata.csv").write_text(f"file_name,text\n{table}")
    captions_of(folder, [f"{i}.png\tpicture {i}" for i in range(20)])
    data = image_folder(folder, held_out_file=str(images / "validation" / "metadata.csv"))
    assert [entry.id for entry in data.validation.entries] == [f"validation/{i}.png" for i in range(20, 30)]
    assert data.validation.read(9, random.Random(0)).caption == "picture, 29"
    assert (len(data.train), data.notes) == (20, [])


def test_the_form_of_the_captions_is_none_of_the_data(folder: Path) -> None:
    """The split, the order and the digests that a run goes on by are those of names and captions."""
    (folder / "images" / "metadata.jsonl").write_text(
        "".join(f'{{"file_name": "{i}.png", "text": "picture {i}"}}\n' for i in range(30))
    )
    plain = image_folder(folder)
    other = image_folder(folder, captions_file=str(folder / "images" / "metadata.jsonl"))
    assert other.notes == []
    for mine, theirs in ((plain.train, other.train), (plain.validation, other.validation)):
        assert mine.contents() == theirs.contents()
        assert mine.fingerprint() == theirs.fingerprint()
