"""Whatever is wrong with a picture is a bad sample with a reason, and costs no memory."""

import io
import os
import random
import resource
import signal
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from fluxflow_exp.data import decoding
from fluxflow_exp.data.images import Entry, Images, ImageTransform, load
from fluxflow_exp.data.protocols import BadSampleError, Sample
from fluxflow_exp.data.transforms import fit, open_rgb, upright_size
from tests.helpers.mutated import mutations, pictures

SECONDS = 10  # more than any of these files takes


def source(folder: Path, *names: str, **look: object) -> Images:
    entries = [Entry(name, "a picture", name) for name in names]
    return Images(entries, folder.joinpath, ImageTransform(16, **look), state_of=lambda name: None)  # type: ignore[arg-type]


def why(folder: Path, name: str) -> str:
    """The reason why this file is a bad sample, with buckets and without."""
    with pytest.raises(BadSampleError) as caught:
        source(folder, name).read(0, random.Random(0))
    assert source(folder, name, max_ratio=2.0).bad == [(name, caught.value.reason)]
    return caught.value.reason


@pytest.mark.parametrize(
    "error",
    [struct.error("unpack"), TypeError("int"), RuntimeError("avif"), NotImplementedError("dds"), MemoryError()],
    ids=lambda error: type(error).__name__,
)
def test_any_exception_of_a_decoder_is_a_bad_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    assert why(tmp_path, "a.png") == f"cannot be decoded: {str(error) or 'MemoryError'}"


def test_names_that_lead_to_no_file_are_bad_samples(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    found = {name: why(tmp_path, name) for name in ("x" * 300, "a\0b", "loop", "folder", "pipe", "absent", "\ud800")}
    assert all("\n" not in reason and len(reason) < 100 for reason in found.values())
    assert [found["x" * 300], found["loop"]] == ["File name too long", "Too many levels of symbolic links"]
    assert [found["folder"], found["absent"]] == ["is a folder", "there is no such file"]
    assert found["a\0b"] == found["\ud800"] == "no file can have this name"
    assert "a pipe" in found["pipe"]


def test_a_program_is_not_run_to_see_what_it_draws(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{} loop\n")
    with pytest.raises(BadSampleError, match="PostScript"):
        source(tmp_path, "a.jpg").read(0, random.Random(0))


def png(width: int, height: int) -> bytes:
    """One colour in few bytes."""
    packed = zlib.compressobj(1)
    row = bytes(1 + width)
    rows = b"".join(packed.compress(row) for _ in range(height)) + packed.flush()
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    framed = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def test_the_size_of_a_png_is_known_without_its_pixels_unless_its_turn_stands_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    path, exif = tmp_path / "a.png", Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(path)
    plain = path.read_bytes()
    for late in (chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")), b""):
        path.write_bytes(plain[:-12] + chunk(b"tEXt", b"date:create\0today") + late + plain[-12:])
        assert upright_size(path) == ((8, 4) if late else (4, 8))
        assert open_rgb(path).size[::-1] == upright_size(path)
    monkeypatch.setattr(PngImageFile, "load", lambda image: pytest.fail("decoded"))
    assert upright_size(path) == (4, 8)


def test_too_many_pixels_are_refused_by_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 60 * 40)
    Image.new("RGB", (60, 40)).save(tmp_path / "fits.png")
    (tmp_path / "large.png").write_bytes(png(60, 41)[:60])  # nothing but the header
    Image.new("RGB", (640, 480)).save(tmp_path / "photo.jpg")  # decoded down to an eighth
    assert isinstance(source(tmp_path, "fits.png").read(0, random.Random(0)), Sample)
    with pytest.raises(BadSampleError, match="60 x 41 pixels, more than 2,400"):
        source(tmp_path, "large.png").read(0, random.Random(0))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 80 * 60)
    assert isinstance(source(tmp_path, "photo.jpg").read(0, random.Random(0)), Sample)


def test_a_long_thin_picture_is_cut_before_it_is_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    thin = open_rgb(io.BytesIO(png(1, 30_000)))

    def never(*_: object, **__: object) -> None:
        raise AssertionError("5.9 GB")

    monkeypatch.setattr(torch.nn.functional, "interpolate", never)
    assert fit(thin, (256, 256), place=(0.5, 0.9)).shape == (3, 256, 256)


@pytest.fixture
def no_hang() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt(f"not done after {SECONDS} s")  # no AssertionError: it would be taken for a decoder's

    before = signal.signal(signal.SIGALRM, stop)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("count", [80, pytest.param(3000, marks=pytest.mark.slow)])
def test_a_mutated_picture_is_a_sample_or_a_bad_one_with_a_reason(count: int, no_hang: None) -> None:
    before, whole = highest(), pictures()
    for name, data in whole.items():
        assert load_mutated(data) is None, name
    reasons = [load_mutated(data) for data in mutations(list(whole.values()), count=count, seed=1)]
    assert count / 5 < sum(reason is None for reason in reasons) < count / 2
    assert all(reason and "\n" not in reason for reason in reasons if reason is not None)
    assert highest() < before + 2**30


def highest() -> int:
    """The most bytes that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def load_mutated(data: bytes) -> str | None:
    """Why it is a bad sample; None: it is not."""
    signal.alarm(SECONDS)
    try:
        load(Entry("a", "a picture", "a"), lambda: io.BytesIO(data), ImageTransform(16), (16, 16), random.Random(0))
    except BadSampleError as error:
        return error.reason
    return None


def heic(path: Path) -> Path:
    """120 x 80 pixels, darker towards the top, that metadata turn to 80 x 120."""
    import pillow_heif

    turned = Image.Exif()
    turned[decoding.ORIENTATION] = 6
    plain = pillow_heif.from_pillow(Image.linear_gradient("L").resize((120, 80)).convert("RGB"))
    plain.save(path, exif=turned.tobytes())
    return path


def test_a_phones_heic_is_read_upright_where_pillow_heif_is_installed(tmp_path: Path) -> None:
    path = heic(tmp_path / "a.heic")
    assert upright_size(path) == (120, 80)
    for file in (path, io.BytesIO(path.read_bytes())):
        shown = open_rgb(file, at_least=16)
        assert shown.size == (80, 120)
        assert shown.getpixel((5, 60))[0] > 200 > 50 > shown.getpixel((75, 60))[0], "its top is at the right"
    (tmp_path / "torn.heic").write_bytes(path.read_bytes()[:-100])
    assert why(tmp_path, "torn.heic").startswith("is a HEIC picture that is damaged")


def test_without_it_the_reason_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heic(tmp_path / "a.heic")
    for registered in (Image.OPEN, Image.EXTENSION):  # another test may have read one
        monkeypatch.delitem(registered, "HEIF", raising=False)
    monkeypatch.setattr(Image, "ID", [each for each in Image.ID if each != "HEIF"])
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    reason = "is a HEIC picture, which pillow-heif alone reads: pip install pillow-heif"
    assert why(tmp_path, "a.heic") == reason
