"""What a folder of images trains with, shards of it do as well."""

import json
import sys
import tarfile
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from fluxflow_exp.data.image_folder import ImageFolder
from fluxflow_exp.data.pack import SCRATCH, cli, pack
from fluxflow_exp.data.webdataset import WebDataset
from fluxflow_exp.errors import UserError

KINDS = {
    "avif": "AVIF", "bmp": "BMP", "dds": "DDS", "gif": "GIF", "ico": "ICO", "jfif": "JPEG", "jp2": "JPEG2000",
    "JPG": "JPEG", "mpo": "MPO", "pcx": "PCX", "png": "PNG", "ppm": "PPM", "tga": "TGA", "tif": "TIFF", "webp": "WEBP",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    names = [*(f"photo.{i:04d}.{extension}" for i, extension in enumerate(KINDS)), "bare", "odd.jpg_large"]
    for name, kind in zip(names, [*KINDS.values(), "PNG", "JPEG"], strict=True):
        Image.new("RGB", (16, 16), (200, 10, 10)).save(tmp_path / "images" / name, kind)
    (tmp_path / "captions.tsv").write_text("".join(f"{name}\tpicture {name}\n" for name in names), encoding="utf-8")
    return tmp_path


def packed(folder: Path, output: str = "shards", **options: float) -> list[Path]:
    chosen = {"max_megabytes": 500.0, "max_samples": 7, "seed": 0, **options}
    pack(data_path=folder / "images", captions_file=str(folder / "captions.tsv"), output=folder / output, **chosen)  # type: ignore[arg-type]
    return sorted((folder / output).glob("*.tar"))


def shown(data: ImageFolder | WebDataset) -> dict[str, int]:
    """Caption → a pixel, of every sample."""
    import random

    read = [s.read(i, random.Random(0)) for s in (data.train, data.validation) for i in range(len(s))]  # type: ignore[union-attr]
    return {sample.caption: int(sample.image[0, 8, 8]) for sample in read}


def test_every_kind_of_picture_comes_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = packed(folder, "100% [of] it")
    assert [path.name for path in shards] == [f"shard-{i:06d}.tar" for i in range(3)]
    assert "2 files named by their content; first: bare as png" in capsys.readouterr().err
    options = {"img_size": 16, "validation_fraction": 0.2}
    plain = ImageFolder(data_path=str(folder / "images"), captions_file=str(folder / "captions.tsv"), **options)  # type: ignore[arg-type]
    found = WebDataset(urls=f"{folder}/100% [of] it/*.tar", **options)  # type: ignore[arg-type]
    assert shown(found) == shown(plain)
    assert len(shown(plain)) == 17
    assert found.bad == []


def test_the_command_says_how_to_train_on_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["pack", str(folder / "images"), str(folder / "captions.tsv"), str(folder / "shards")]
    monkeypatch.setattr(sys, "argv", words)
    cli()
    said = capsys.readouterr().out
    assert "17 samples in 1 shard" in said
    assert "shard-{000000..000000}.tar" in said
    assert cli() == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_several_captions_go_into_a_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / "captions.tsv").open("a") as file:
        file.write("bare\tnothing, bare\nodd.jpg_large\tan odd one\nodd.jpg_large\tan odd one\n")
    found = {}
    for shard in packed(folder):
        with tarfile.open(shard) as archive:
            whole = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
        for fields in (json.loads(data) for name, data in whole.items() if name.endswith(".json")):
            found[tuple(fields["caption"])] = fields["caption_weight"]
    assert len(found) == 17
    assert found[("picture bare", "nothing, bare")] == [1, 1]
    assert found[("picture odd.jpg_large", "an odd one")] == [1, 2]
    assert "data.label_key=json data.caption_key=caption" in capsys.readouterr().out
    heaviest = WebDataset(urls=f"{folder}/shards/*.tar", img_size=16, validation_fraction=0.2)
    assert shown(heaviest).keys() >= {"picture bare", "an odd one"}


def test_what_no_shard_can_have_is_left_out_and_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "images" / "notes.txt").write_text("no picture")
    with (folder / "captions.tsv").open("a") as file:
        file.write("notes.txt\ta caption\nbare\t\n")
    packed(folder, max_samples=100)
    said = capsys.readouterr()
    assert "left out: notes.txt: is no picture of a known format" in said.err
    assert "left out: bare: an empty caption" in said.err
    assert "17 samples" in said.out
    with (folder / "captions.tsv").open("a") as file:
        file.write(f"{'x' * 300}.png\ta caption\n")
    with pytest.raises(UserError, match=r"1 of 19 images are not in .*first: xxx"):
        packed(folder, "again")
    assert not (folder / "again").exists()


def test_a_try_that_fails_leaves_nothing_and_one_that_is_killed_is_no_obstacle(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = webdataset.ShardWriter.write

    def full(self: webdataset.ShardWriter, sample: dict[str, object]) -> None:
        if sample["__key__"] == "000000009":
            raise OSError(28, "No space left on device")
        write(self, sample)

    monkeypatch.setattr(webdataset.ShardWriter, "write", full)
    with pytest.raises(OSError, match="No space"):
        packed(folder)
    assert list((folder / "shards").iterdir()) == []
    (folder / "shards" / SCRATCH).mkdir()
    for name in ("shard-000000.tar", f"{SCRATCH}/shard-000001.tar"):
        (folder / "shards" / name).write_bytes(b"half")
    monkeypatch.undo()
    shards = packed(folder)
    assert [path.name for path in shards] == [f"shard-{i:06d}.tar" for i in range(3)]
    assert all(path.stat().st_size > 1000 for path in shards)


def test_of_a_group_that_shards_would_part_one_picture_is_packed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"file_name": name, "text": "a", "split_group": group}
             for name, group in (("photo.0007.JPG", "x"), ("bare", None), ("photo.0010.png", "x"))]  # fmt: skip
    (folder / "m.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    pack(data_path=folder / "images", captions_file=str(folder / "m.jsonl"), output=folder / "out",
         max_megabytes=1.0, max_samples=9, seed=0)  # fmt: skip
    assert "2 samples in 1 shard" in capsys.readouterr().out
