"""A folder with captions: parsing, splitting, bad files."""

import hashlib
import pickle
import random

import pytest
import torch
from PIL import Image

from fluxflow_exp.data.image_folder import ImageFolder, read_captions
from fluxflow_exp.data.images import is_held_out
from fluxflow_exp.data.sample import BadSampleError


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(30):
        Image.new("RGB", (20, 16), (8 * i, 0, 0)).save(images / f"{i}.png")
    lines = [f"{i}.png\tpicture {i}" for i in range(30)]
    (tmp_path / "captions.tsv").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def build(folder, **options):
    return ImageFolder(
        data_path=str(folder / "images"), captions_file=str(folder / "captions.tsv"), img_size=16, **options
    )


def test_captions_are_parsed_as_documented(tmp_path):
    path = tmp_path / "c.tsv"
    path.write_bytes("\ufeffa.png\tone\ttwo\r\n\n  \nb.png\tGrüße\nno tab here\n\tnameless\n".encode())
    entries, bad = read_captions(path)
    assert [(e.id, e.caption) for e in entries] == [("a.png", "one\ttwo"), ("b.png", "Grüße")]
    assert bad == [("c.tsv:5", "no tab between name and caption"), ("c.tsv:6", "no name")]
    assert read_captions(path, prefix="style anime")[0][0].caption == "style anime. one\ttwo"


def test_only_line_feeds_separate_captions(tmp_path):
    (tmp_path / "c.tsv").write_bytes("a.png\tone\u2028two\x0bthree\x85four\rfive\r\nb.png\tsix".encode())
    entries, bad = read_captions(tmp_path / "c.tsv")
    assert [e.caption for e in entries] == ["one\u2028two\x0bthree\x85four\rfive", "six"]
    assert bad == []


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "a\0b.png", "loop.png", "folder.png", "file.png/a.png"])
def test_a_name_that_cannot_be_looked_up_loses_one_sample(folder, name):
    images = folder / "images"
    (images / "loop.png").symlink_to("loop.png")
    (images / "folder.png").mkdir()
    (images / "file.png").touch()
    with (folder / "captions.tsv").open("a") as file:
        file.write(f"\n{name}\ta caption")
    data = build(folder, validation_fraction=0.3)
    assert len(data.train.fingerprint()) == 64
    source = next(s for s in (data.train, data.validation) if name in {e.id for e in s.entries})
    with pytest.raises(BadSampleError):
        source.read(len(source) - 1, random.Random(0))


def test_the_split_is_by_hash_of_the_name(folder):
    data = build(folder)
    held_out = {e.id for e in data.validation.entries}
    assert held_out == {
        f"{i}.png" for i in range(30) if int(hashlib.sha256(f"{i}.png".encode()).hexdigest(), 16) % 10 == 0
    }
    assert len(data.train) + len(data.validation) == 30
    share = sum(is_held_out(f"name{i}", 0.15) for i in range(4000)) / 4000
    assert share == pytest.approx(0.15, abs=0.02)


def test_a_sample_is_square_and_carries_its_caption(folder):
    sample = build(folder).train.read(0, random.Random(0))
    assert sample.image.shape == (3, 16, 16)
    assert sample.caption == f"picture {sample.id.removesuffix('.png')}"


def test_another_process_reads_the_same(folder):
    source = build(folder).train
    sent = pickle.loads(pickle.dumps(source))
    assert torch.equal(sent.read(2, random.Random(0)).image, source.read(2, random.Random(0)).image)
    assert sent.fingerprint() == source.fingerprint()


def test_a_missing_file_is_a_bad_sample(folder):
    data = build(folder)
    (folder / "images" / data.train.entries[3].id).unlink()
    with pytest.raises(BadSampleError, match="there is no such file"):
        data.train.read(3, random.Random(0))


def test_random_crops_and_flips_follow_the_generator(folder):
    image = Image.new("RGB", (64, 16))
    for x in range(64):
        image.paste((4 * x, 0, 0), (x, 0, x + 1, 16))
    data = build(folder, crop="random", flip=True)
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
        build(folder)


def test_a_missing_captions_file_is_named(folder):
    (folder / "captions.tsv").unlink()
    with pytest.raises(ValueError, match=r"there is no file .*captions\.tsv"):
        build(folder)
