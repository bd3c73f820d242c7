"""A folder with many kinds of trouble, each of which is named; and what is written of it."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from fluxflow_exp import main
from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.data.check.command import cli
from fluxflow_exp.data.image_folder import ImageFolder
from fluxflow_exp.data.images import is_held_out

SIZE = (64, 64)


def picture(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Smooth and in colours, and like no other one."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def sixteen_bits(path: Path) -> None:
    Image.fromarray((np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)).save(path)


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(103).save(path, exif=exif)


def torn(path: Path) -> None:
    picture(104, (256, 256)).save(path)
    path.write_bytes(path.read_bytes()[:-3000])


def transparent(path: Path) -> None:
    made = picture(105).convert("RGBA")
    made.putalpha(Image.linear_gradient("L").resize(SIZE))
    made.save(path)


def animated(path: Path) -> None:
    picture(106).save(path, save_all=True, append_images=[picture(107)])


PLANTED: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "torn.jpg": ("unreadable pictures", torn),
    "text.jpg": ("unreadable pictures", lambda path: path.write_text("hello")),
    "empty.png": ("unreadable pictures", Path.touch),
    "cmyk.jpg": ("CMYK", lambda path: picture(102).convert("CMYK").save(path)),
    "deep.png": ("16 bits or floats a channel", sixteen_bits),
    "turned.jpg": ("EXIF rotation", turned),
    "seen_through.png": ("transparency", transparent),
    "moving.webp": ("animation", animated),
    "palette.png": ("palette", lambda path: picture(108).quantize(16).save(path)),
    "grey.png": ("grey", lambda path: picture(109).convert("L").save(path)),
    "lab.tif": ("other modes (YCbCr, Lab, HSV)", lambda path: Image.new("LAB", SIZE).save(path)),
    "plain.png": ("one colour throughout", lambda path: Image.new("RGB", SIZE, "red").save(path)),
    "tiny.png": ("very small pictures", lambda path: picture(110, (12, 16)).save(path)),
    "long.png": ("panoramas", lambda path: picture(111, (300, 64)).save(path)),
    "again.png": ("copies, byte for byte", lambda path: shutil.copy(path.with_name("0.png"), path)),
    "nearly.jpg": ("near copies", lambda path: picture(1).resize((48, 48)).save(path, quality=60)),
    "mirrored.png": ("near copies", lambda path: ImageOps.mirror(picture(2)).save(path)),
    "silent.png": ("empty captions", lambda path: picture(112).save(path)),
    "wordy.png": ("captions cut by the text encoder", lambda path: picture(113).save(path)),
    "bare.png": ("pictures without a caption", lambda path: picture(114).save(path)),
}
CAPTIONS = {"again.png": "picture 0", "silent.png": "", "wordy.png": "a kite, " * 40}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`images/` with forty sound pictures and the planted ones, and `captions.tsv`."""
    root = tmp_path_factory.mktemp("planted")
    (root / "images").mkdir()
    for number in range(40):
        picture(number).save(root / "images" / f"{number}.png")
    for name, (_, make) in PLANTED.items():
        make(root / "images" / name)
    names = [*(f"{number}.png" for number in range(40)), *PLANTED.keys() - {"bare.png"}, "gone.png"]
    captions = {name: f"picture {name.partition('.')[0]}" for name in names} | CAPTIONS
    captions |= {"11.png": "a stock picture", "12.png": "a stock picture"}
    lines = [*(f"{name}\t{caption}" for name, caption in captions.items()), "no tab", "13.png\tpicture 13"]
    (root / "captions.tsv").write_text("\n".join(lines), encoding="utf-8")
    return root


def checked(root: Path, capsys: pytest.CaptureFixture[str], *words: str, code: int = 1) -> str:
    given = [str(root / "images"), str(root / "captions.tsv"), "--img_size", "32", "--workers", "1", *words]
    assert cli([*given, "--output", str(root / "page.html")]) == code
    return capsys.readouterr().out


def told(text: str) -> dict[str, str]:
    """Kind → its number and its examples."""
    found = re.findall(r"^ +([\d,]+)  (.+)\n +e\.g\. (.+)$", text, re.MULTILINE)
    return {title: f"{count}: {examples}" for count, title, examples in found}


def test_each_planted_trouble_is_named(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = checked(planted, capsys)
    found = told(said)
    page = (planted / "page.html").read_text(encoding="utf-8")
    assert {kind for kind, _ in PLANTED.values()} <= found.keys()
    for name, (kind, _) in PLANTED.items():
        assert name in found[kind] or name in page[page.index(f">{kind} <small>") :]
    assert found["unreadable pictures"].startswith("3: ")
    assert found["captions without a picture"] == "1: gone.png"
    assert found["unusable captions"] == "1: captions.tsv:61: no tab between name and caption"
    assert found["captions that stand several times"].startswith("3: ")
    assert "<code>a stock picture</code> 2 times" in page
    assert found["repeated lines"] == "1: 13.png"
    assert found["copies, byte for byte"] == "1: again.png: is 0.png"
    assert found["near copies"].startswith("2: ")
    assert found["captions cut by the text encoder"].startswith("1: wordy.png: 319 bytes")
    assert "mirrored.png</code> is nearly 2.png (mirrored, " in page
    assert "59 pictures, 61 captions" in said
    assert "paste: data.img_size=32\n" in said, "squares"


def test_a_cleaned_file_holds_what_can_be_used_and_never_parts_copies(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = tmp_path / "clean.jsonl"
    before = {path: path.read_bytes() for path in planted.rglob("*") if path.is_file() and path.suffix != ".html"}
    said = checked(planted, capsys, "--fix", str(clean))
    assert {path: path.read_bytes() for path in before} == before, "no picture is changed"
    assert f"{clean} is written. Left out: " in said
    for part in (
        "1 without a picture", "3 of a picture that cannot be read", "1 empty", "1 that cannot be used",
        "2 of the same picture with the same caption as another",
    ):  # fmt: skip
        assert part in said
    rows = [json.loads(line) for line in clean.read_text(encoding="utf-8").splitlines()]
    groups = {row["file_name"]: row["split_group"] for row in rows if "split_group" in row}
    assert len(rows) == 61 - 1 - 3 - 1 - 2
    assert groups == {"1.png": "1.png", "nearly.jpg": "1.png", "2.png": "2.png", "mirrored.png": "2.png"}
    data = ImageFolder(data_path=str(planted / "images"), captions_file=str(clean), img_size=32)
    assert data.bad == []
    assert [note for note in data.notes if re.search("are not in|is empty|more than once", note)] == []


def parted(folder: Path, captions: str = "captions.tsv") -> list[int]:
    """Ten pairs of copies, and the numbers of those that a split by name parts."""
    (folder / "images").mkdir()
    names = []
    for number in range(20):
        names += [f"{number}.png", f"copy of {number}.png"]
        for name in names[-2:]:
            picture(number).save(folder / "images" / name)
    (folder / captions).write_text("".join(f"{name}\t{name}\n" for name in names), encoding="utf-8")
    sides = [[is_held_out(name, 0.1) for name in names[at : at + 2]] for at in range(0, len(names), 2)]
    return [number for number, (one, other) in enumerate(sides) if one != other]


def test_copies_on_both_sides_are_counted_and_a_cleaned_file_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same bytes with different captions: none is dropped, all stay together."""
    across = parted(tmp_path)
    assert across, "or the test shows nothing"
    kind = "held-out pictures that are trained on as a copy"
    said = checked(tmp_path, capsys, "--fix", str(tmp_path / "clean.jsonl"), code=0)
    assert told(said)[kind].startswith(f"{len(across)}: ")
    data = ImageFolder(data_path=str(tmp_path / "images"), captions_file=str(tmp_path / "clean.jsonl"), img_size=32)
    sides = [{entry.id.removeprefix("copy of ") for entry in each.entries} for each in (data.train, data.validation)]
    assert sides[0].isdisjoint(sides[1])
    assert len(data.train) + len(data.validation) == 40
    again = [str(tmp_path / "images"), str(tmp_path / "clean.jsonl"), "--output", str(tmp_path / "page.html")]
    assert cli(again) == 0
    assert kind not in capsys.readouterr().out


def test_all_captions_of_a_picture_are_kept_with_their_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    for number in range(4):
        picture(number).save(tmp_path / "images" / f"{number}.png")
    rows = ["0.png\ta kite\t3", "0.png\t\t1", "0.png\ta red kite\t1", "1.png\ta boat\t2", "2.png\tone\t1",
            "2.png\ttwo\t1", "3.png\t\t1"]  # fmt: skip
    (tmp_path / "captions.tsv").write_text("\n".join(["name\tcaption\tcaption_weight", *rows]), encoding="utf-8")
    said = checked(tmp_path, capsys, "--fix", str(tmp_path / "clean.jsonl"), code=0)
    assert "4 pictures, 7 captions" in said
    assert "Left out: 2 empty" in said
    assert [json.loads(line) for line in (tmp_path / "clean.jsonl").read_text("utf-8").splitlines()] == [
        {"file_name": "0.png", "text": ["a kite", "a red kite"], "caption_weight": [3.0, 1.0]},
        {"file_name": "1.png", "text": "a boat"},
        {"file_name": "2.png", "text": ["one", "two"]},
    ]


def test_of_what_a_file_holds_out_copies_are_left_out_of_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parted(tmp_path)
    lines = (tmp_path / "captions.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "apart.tsv").write_text("".join(lines[:6:2]), encoding="utf-8")  # 0, 1 and 2, of which copies are left
    (tmp_path / "captions.tsv").write_text("".join(line for line in lines if line not in lines[:6:2]), encoding="utf-8")
    words = ["stage=vae", "data=image_folder", f"data.data_path={tmp_path / 'images'}", "data.img_size=32",
             f"data.captions_file={tmp_path / 'captions.tsv'}", f"+data.held_out_file={tmp_path / 'apart.tsv'}",
             "--fix", str(tmp_path / "clean.jsonl"), "--output", str(tmp_path / "page.html")]  # fmt: skip
    assert cli(words) == 0
    said = capsys.readouterr().out
    assert "3 of a copy of a held-out picture" in said
    assert "(the held-out file is as it was)" in said
    names = {json.loads(line)["file_name"] for line in (tmp_path / "clean.jsonl").read_text("utf-8").splitlines()}
    assert len(names) == 34
    assert names.isdisjoint({f"copy of {number}.png" for number in range(3)})


def test_the_words_of_a_run_are_taken_and_its_length_is_foretold(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["stage=vae", "data=image_folder", f"data.data_path={planted / 'images'}", "data.img_size=32",
             f"data.captions_file={planted / 'captions.tsv'}", "data.max_bad_fraction=0.5", "data.buckets=2.0",
             "stage.steps.vae.batch_size=4", "stage.steps.vae.n_epochs=3"]  # fmt: skip
    assert cli([*words, "--output", str(tmp_path / "page.html")]) == 1
    foretold = re.search(r"vae: .* = (\d+) updates an epoch; (\d+) updates in all", capsys.readouterr().out)
    assert foretold
    run = [*words, "hardware=cpu", "validate=true", f"output_root={tmp_path}"]
    main.train(resolve(compose_config(run)))
    plan = re.search(r"vae: 3 epochs x (\d+) = (\d+) updates", capsys.readouterr().out)
    assert plan
    assert plan.groups() == foretold.groups()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], "there is no folder none"),
        (["."], ". holds no picture"),
        (["there.jsonl"], "no folder there.jsonl: it is a file, and an archive is to be unpacked"),
        ([".", "none.tsv"], "captions_file: there is no file none.tsv"),
        ([".", "a.tsv", "b.tsv"], "a folder and one file of captions, not 3 words"),
        ([".", "--workers", "0"], "--workers must be at least 1, not 0"),
        (["stage=vae", "data=shapes"], "say data=image_folder"),
        (["stage=vae", "data=image_folder"], "data.data_path is not set"),
        (
            ["stage=vae", "--img_size", "9", "--epochs", "2"],
            "--img_size, --epochs: with the words of",
        ),
        (["stage=vae", "data=image_folder", "data.data_path=none", "data.captions_file=sidecar"], "no folder none"),
        ([".", "--fix", "a.tsv"], "--fix a.tsv: its name is to end with .jsonl"),
        ([".", "--fix", "there.jsonl"], "there.jsonl is there already"),
        ([".", "--fix", "sub/a.jsonl"], "names of metadata in a subfolder are relative to that"),
    ],
)
def test_what_cannot_be_checked_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.jsonl").touch()
    assert cli(words) == 2
    assert message in capsys.readouterr().err


def test_captions_are_found_where_they_stand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(tmp_path), "--img_size", "32", "--output", str(tmp_path / "page.html")]
    for number in range(3):
        picture(number).save(tmp_path / f"{number}.png")
    assert cli(words) == 1
    assert "3 pictures, no captions;" in capsys.readouterr().out
    (tmp_path / "0.txt").write_text("a kite")
    assert cli(words) == 0
    assert "1 picture, 1 caption (sidecar)" in capsys.readouterr().out
    (tmp_path / "metadata.csv").write_text("file_name,text\n0.png,a\n1.png,b\n")
    assert cli(words) == 0
    assert "2 pictures, 2 captions" in capsys.readouterr().out


def test_names_are_known_however_they_are_written_and_if_none_is_the_cause_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        picture(number).save(tmp_path / "in" / f"{number}.png")
    words = [str(tmp_path), str(tmp_path / "m.tsv"), "--img_size", "32", "--output", str(tmp_path / "page.html")]
    (tmp_path / "m.tsv").write_text(f"./in/0.png\ta\n{tmp_path}/in/1.png\tb\n")
    assert cli(words) == 0
    said = capsys.readouterr().out
    assert "without a caption" not in said
    assert "refused: " in said
    (tmp_path / "m.tsv").write_text("in\\0.png\ta\nin\\1.png\tb\n")
    assert cli(words) == 2
    assert "Cause: the names have backslashes where a slash parts folders" in capsys.readouterr().err


def test_names_that_are_no_text_and_captions_that_a_terminal_would_obey_are_shown_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = os.fsdecode(b"\xff.png")
    (tmp_path / "images").mkdir()
    for name in (odd, "1.png"):
        picture(0).save(tmp_path / "images" / name)
    rows = [{"file_name": name, "text": "\x1b[2J" * 60} for name in (odd, "1.png")]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    words = [str(tmp_path / "images"), str(tmp_path / "rows.jsonl"), "--fix", str(tmp_path / "clean.jsonl")]
    assert cli([*words, "--output", str(tmp_path / "page.html")]) == 0
    said = capsys.readouterr().out
    assert "\\udcff.png" in said
    assert "\x1b[2J" not in said
    (row,) = map(json.loads, (tmp_path / "clean.jsonl").read_text("utf-8").splitlines())
    assert row == rows[0]
