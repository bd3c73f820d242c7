"""Embedded profiles become sRGB, and what is sRGB already stays as it is."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from fluxflow_exp.data.transforms import open_rgb
from tests.helpers.profiles import P3, SRGB, cmyk, grey, rgb

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))


def read(image: Image.Image, kind: str = "PNG", **options: object) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return open_rgb(file, background="blue")


def meant(colour: tuple[int, int, int]) -> list[float]:
    """The sRGB of a Display P3 colour with a gamma of 2.2, by the two spaces' matrices."""
    linear = np.linalg.inv(np.array(SRGB).T) @ np.array(P3).T @ (np.array(colour) / 255) ** 2.2
    linear = linear.clip(0, 1)
    return list(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_wide_gamut_becomes_srgb(mode: str) -> None:
    colour = (200, 100, 50)
    image = Image.new("RGB", (4, 4), colour)
    image = image.quantize() if mode == "P" else image.convert(mode)
    if mode == "RGBA":
        image.putpixel((0, 0), (0, 0, 0, 0))
    found = read(image, icc_profile=rgb("Display P3", P3))
    assert found.getpixel((1, 1)) == pytest.approx(meant(colour), abs=1.5)
    assert mode != "RGBA" or found.getpixel((0, 0)) == (0, 0, 255)


def test_grey_and_print_are_converted_by_their_profiles() -> None:
    expected = 255 * (1.055 * ((100 / 255) ** 1.8) ** (1 / 2.4) - 0.055)
    for image in (Image.new("L", (4, 4), 100), Image.new("LA", (4, 4), (100, 255))):
        assert read(image, icc_profile=grey("Dot Gain", 1.8)).getpixel((1, 1)) == pytest.approx(3 * [expected], abs=1.5)
    ink = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert read(ink, "TIFF").getpixel((1, 1)) == (0, 255, 255)
    assert read(ink, "TIFF", icc_profile=cmyk("a press")).getpixel((1, 1)) == pytest.approx(3 * [119], abs=2)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    "profile",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        rgb("Camera sRGB profile", P3),
        rgb("c2", SRGB, gamma=None),
    ],
    ids=["Little CMS's", "by name", "by effect"],
)
def test_what_is_srgb_keeps_its_bytes(kind: str, profile: bytes) -> None:
    for image in (NOISE, NOISE.convert("L")):
        assert read(image, kind, icc_profile=profile).tobytes() == read(image, kind).tobytes()


def test_a_profile_that_cannot_be_used_changes_nothing_and_is_told_of_once(capfd: pytest.CaptureFixture[str]) -> None:
    damaged = rgb("Display P3", P3)[:200]
    for _ in range(3):
        assert read(NOISE, icc_profile=damaged).tobytes() == NOISE.tobytes()
    assert capfd.readouterr().err.count("an embedded colour profile cannot be read") == 1
    for other in (grey("Dot Gain", 1.8), b""):  # of another kind of picture
        assert read(NOISE, icc_profile=other).tobytes() == NOISE.tobytes()
