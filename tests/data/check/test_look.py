"""What is told of one picture."""

import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fluxflow_exp.data.check.look import COLOUR, DIGEST, GREY, KEPT, KINDS, look
from tests.helpers.mutated import mutations, pictures


def test_a_plain_photograph_has_nothing_unusual(tmp_path: Path) -> None:
    Image.effect_noise((40, 30), 60).convert("RGB").save(tmp_path / "a.jpg")
    found = look(tmp_path / "a.jpg", at_least=16)
    assert (found.wrong, found.size, found.kinds) == ("", (30, 40), ())
    assert (len(found.digest), len(found.kept)) == (DIGEST, KEPT)


def test_what_is_kept_are_brightness_and_colours_from_the_upper_left(tmp_path: Path) -> None:
    image = Image.new("RGB", (160, 160), "white")
    image.paste((255, 0, 0), (0, 0, 80, 160))
    image.save(tmp_path / "a.png")
    kept = np.frombuffer(look(tmp_path / "a.png", at_least=16).kept, np.uint8)
    grey, colour = kept[: GREY**2].reshape(GREY, GREY), kept[GREY**2 :].reshape(COLOUR, COLOUR, 3)
    assert (grey[:, : GREY // 2] == 76).all()
    assert (grey[:, GREY // 2 :] == 255).all()
    assert (colour[:, : COLOUR // 2] == (255, 0, 0)).all()


def test_one_colour_throughout_is_said_of_all_channels_and_pixels(tmp_path: Path) -> None:
    image = Image.new("RGB", (64, 64), (0, 130, 0))
    image.save(tmp_path / "plain.png")
    image.paste((255, 0, 0), (16, 16, 48, 48))
    assert image.convert("L").getextrema() == (76, 76), "equally bright"
    image.save(tmp_path / "shape.png")
    Image.fromarray(np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255).convert("RGB").save(tmp_path / "board.png")
    assert look(tmp_path / "plain.png", at_least=16).kinds == ("plain",)
    assert look(tmp_path / "shape.png", at_least=16).kinds == ()
    assert look(tmp_path / "board.png", at_least=16).kinds == ()


def test_a_turned_picture_has_the_size_that_it_is_shown_at(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.effect_noise((40, 30), 60).convert("RGB").save(tmp_path / "a.jpg", exif=exif)
    found = look(tmp_path / "a.jpg", at_least=16)
    assert (found.size, found.kinds) == ((40, 30), ("turned",))


def test_colours_of_sixteen_bits_are_told_as_well_as_greys(tmp_path: Path) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header, pixels = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0), zlib.compress(bytes(13))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    assert look(tmp_path / "deep.png", at_least=16).kinds == ("16 bit", "plain")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_counts_where_something_shines_through(tmp_path: Path, mode: str) -> None:
    opaque = Image.linear_gradient("L").convert("RGBA").convert(mode)
    opaque.save(tmp_path / "opaque.png")
    assert "transparent" not in look(tmp_path / "opaque.png", at_least=16).kinds
    clear = Image.linear_gradient("L").convert("RGBA")
    clear.putalpha(Image.new("L", clear.size, 254))
    if mode == "P":
        opaque.save(tmp_path / "clear.png", transparency=0)
    else:
        clear.convert(mode).save(tmp_path / "clear.png")
    assert "transparent" in look(tmp_path / "clear.png", at_least=16).kinds


@pytest.mark.parametrize("name", ["absent.png", "folder.png", "a\0b.png"])
def test_what_is_no_file_says_why(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.png").mkdir()
    found = look(tmp_path / name, at_least=16)
    assert found.wrong
    assert found.kept == b""
    (tmp_path / "empty.png").touch()
    assert look(tmp_path / "empty.png", at_least=16).wrong == "is empty"


def test_no_file_whatever_it_holds_ends_in_anything_but_a_reason(tmp_path: Path) -> None:
    whole = list(pictures().values())
    for data in [*whole[::12], *mutations(whole, count=60, seed=5)]:
        (tmp_path / "a").write_bytes(data)
        found = look(tmp_path / "a", at_least=16)
        assert bool(found.wrong) != (len(found.kept) == KEPT)
        assert "\n" not in found.wrong
        assert set(found.kinds) <= set(KINDS)


@pytest.mark.slow
def test_a_core_looks_at_three_hundred_pictures_a_second(tmp_path: Path) -> None:
    """JPEGs of 512 px and 60 to 150 kB, as photographs have; seconds are those of the processor."""
    smooth = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8) for seed in range(100)]
    for number, cells in enumerate(smooth):
        image = Image.fromarray(cells).resize((512, 512), Image.Resampling.BICUBIC)
        image.save(tmp_path / f"{number}.jpg", quality=92)
    assert 60_000 < (tmp_path / "0.jpg").stat().st_size < 150_000
    look(tmp_path / "0.jpg", at_least=256)
    started = time.process_time()
    for number in range(100):
        assert not look(tmp_path / f"{number}.jpg", at_least=256).wrong
    assert 100 / (time.process_time() - started) >= 300
