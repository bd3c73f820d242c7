"""Every kind of image file becomes the RGB that a person sees."""

import numpy as np
import pytest
import torch
from PIL import Image

from fluxflow_exp.data.transforms import check_colour, open_rgb, square, to_tensor


def pixel(path, at=(1, 1), **options):
    return open_rgb(path, **options).getpixel(at)


def test_transparency_is_composited_on_the_background(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (4, 4), (255, 0, 0, 128)).save(tmp_path / "half.png")
    assert pixel(tmp_path / "clear.png") == (255, 255, 255)
    assert pixel(tmp_path / "clear.png", background="#102030") == (16, 32, 48)
    assert pixel(tmp_path / "half.png", background="black") == (128, 0, 0)


def test_palettes_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 0, 200, 0])
    image.save(tmp_path / "plain.gif")
    image.save(tmp_path / "clear.png", transparency=1)
    assert pixel(tmp_path / "plain.gif") == (0, 200, 0)
    assert pixel(tmp_path / "clear.png", background="blue") == (0, 0, 255)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    found = np.asarray(open_rgb(tmp_path / "deep.png"))[..., 0]
    assert found.tolist() == [[0, 100], [200, 255]]


def test_cmyk_and_grey(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=100)
    red, green, blue = pixel(tmp_path / "print.jpg")
    assert red > 240
    assert max(green, blue) < 15
    Image.new("L", (4, 4), 77).save(tmp_path / "grey.png")
    assert pixel(tmp_path / "grey.png") == (77, 77, 77)


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (8, 4), "black")
    image.putpixel((7, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    upright = open_rgb(tmp_path / "turned.png")
    assert upright.size == (4, 8)
    assert upright.getpixel((3, 7)) == (255, 255, 255)


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert pixel(tmp_path / "moving.webp") == (255, 0, 0)


def test_broken_files_are_an_oserror(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("no image")
    for name in ("torn.png", "text.png", "absent.png"):
        with pytest.raises(OSError, match=r".+"):
            open_rgb(tmp_path / name)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(OSError, match="cannot be decoded"):
        open_rgb(tmp_path / "bomb.png")


def test_a_square_keeps_the_aspect_ratio():
    image = Image.new("RGB", (80, 40), "black")
    image.paste("white", (20, 0, 60, 40))  # the middle square
    assert np.asarray(square(image, 20)).min() > 230
    left = np.asarray(square(image, 20, place=(0.0, 0.5)))
    assert left[:, :8].max() < 5
    assert left[:, 12:].min() > 250
    assert square(Image.new("RGB", (7, 5)), 16).size == (16, 16)


def test_tensors_are_channels_first():
    tensor = to_tensor(Image.new("RGB", (6, 4), (1, 2, 3)))
    assert tensor.shape == (3, 4, 6)
    assert tensor.dtype == torch.uint8
    assert tensor[:, 0, 0].tolist() == [1, 2, 3]


def test_an_unknown_colour_is_named():
    with pytest.raises(ValueError, match="'whyte' is no colour"):
        check_colour("whyte")
