"""Every kind of image file becomes the RGB that a person sees."""

import numpy as np
import pytest
import torch
from PIL import Image

from fluxflow_exp.data import transforms
from fluxflow_exp.data.transforms import check_colour, fit, open_rgb, square, to_tensor, upright_size


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


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_exif_orientation_is_applied(tmp_path, suffix):
    image = Image.new("RGB", (8, 4), "black")
    image.putpixel((7, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    path = tmp_path / f"turned.{suffix}"
    image.save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    upright = open_rgb(path)
    assert upright.size == (4, 8)
    assert upright_size(path) == (8, 4)  # as buckets and the check of data have it
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
    assert square(image, 20).min() > 230
    left = square(image, 20, place=(0.0, 0.5))
    assert left[..., :8].max() < 5
    assert left[..., 12:].min() > 250
    assert square(Image.new("RGB", (7, 5)), 16).shape == (3, 16, 16)
    untouched = square(image, 40, place=(1.0, 0.5))
    assert untouched[0, 0].tolist() == 20 * [255] + 20 * [0]


def photo(width=400, height=300):
    """Smooth colours, edges, and grain."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / height
    pixels = 128 + 60 * np.stack([np.sin(9 * x + 4 * y), np.cos(7 * y), np.sin(5 * x * y)], -1)
    pixels += 40 * (np.hypot(x - 0.6, y - 0.4) < 0.3)[..., None]
    grain = rng.normal(size=(height // 2, width // 2, 3)).repeat(2, 0).repeat(2, 1)
    return Image.fromarray((pixels + 6 * grain).clip(0, 255).astype(np.uint8))


def plainly(image, size, place):
    """Pillow's whole picture, resized and cut."""
    scale = max(size[1] / image.width, size[0] / image.height)
    width, height = max(size[1], round(image.width * scale)), max(size[0], round(image.height * scale))
    left, top = round((width - size[1]) * place[0]), round((height - size[0]) * place[1])
    whole = image.resize((width, height), Image.Resampling.LANCZOS)
    return to_tensor(whole.crop((left, top, left + size[1], top + size[0]))).int()


both_filters = pytest.mark.parametrize(
    "vectorised",
    [
        pytest.param(
            True, marks=pytest.mark.skipif(not transforms._VECTORISED, reason="this torch has no such filter")
        ),
        False,
    ],
)


@both_filters
@pytest.mark.parametrize("place", [(0.5, 0.5), (0.0, 1.0), (0.77, 0.31)])
@pytest.mark.parametrize("size", [(64, 64), (128, 160), (300, 300), (512, 384), (16, 96)], ids=str)
def test_a_part_is_that_of_the_whole_picture_resized_by_pillow(size, place, vectorised, monkeypatch):
    monkeypatch.setattr(transforms, "_VECTORISED", vectorised)
    error = (fit(photo(), size, place=place).int() - plainly(photo(), size, place)).abs()
    assert error.max() <= 2
    assert error.double().mean() <= 0.05


@both_filters
def test_a_much_larger_picture_is_averaged_down_without_a_difference(vectorised, monkeypatch):
    monkeypatch.setattr(transforms, "_VECTORISED", vectorised)
    large = photo(1600, 1200)
    error = (fit(large, (64, 64)).int() - plainly(large, (64, 64), (0.5, 0.5))).abs()
    assert error.double().mean() <= 0.5


@both_filters
@pytest.mark.parametrize("size", [40, 64, 100, 190, 256])
def test_a_jpeg_decoded_down_looks_like_one_that_was_decoded_whole(size, vectorised, tmp_path, monkeypatch):
    monkeypatch.setattr(transforms, "_VECTORISED", vectorised)
    photo().save(tmp_path / "photo.jpg", quality=90)
    found = square(open_rgb(tmp_path / "photo.jpg", at_least=size), size)
    whole = open_rgb(tmp_path / "photo.jpg")
    assert whole.size == (400, 300)
    assert (found.int() - plainly(whole, (size, size), (0.5, 0.5))).abs().double().mean() <= 2
    again = square(open_rgb(tmp_path / "photo.jpg", at_least=size), size)
    assert torch.equal(found, again)


def test_a_jpeg_is_decoded_down_to_what_is_needed(tmp_path):
    photo().save(tmp_path / "photo.jpg")
    photo().save(tmp_path / "two.jpg", "MPO", save_all=True, append_images=[photo()])
    for name in ("photo.jpg", "two.jpg"):
        assert open_rgb(tmp_path / name, at_least=100).size == (200, 150)
        assert open_rgb(tmp_path / name, at_least=151).size == (400, 300)


def test_an_alpha_channel_that_hides_nothing_changes_nothing(tmp_path):
    photo().save(tmp_path / "plain.png")
    opaque = photo()
    opaque.putalpha(255)
    opaque.save(tmp_path / "opaque.png")
    plain, found = (open_rgb(tmp_path / f"{name}.png", background="red") for name in ("plain", "opaque"))
    assert found.mode == "RGB"
    assert found.tobytes() == plain.tobytes()


def test_tensors_are_channels_first():
    tensor = to_tensor(Image.new("RGB", (6, 4), (1, 2, 3)))
    assert tensor.shape == (3, 4, 6)
    assert tensor.dtype == torch.uint8
    assert tensor[:, 0, 0].tolist() == [1, 2, 3]


def test_an_unknown_colour_is_named():
    with pytest.raises(ValueError, match="'whyte' is no colour"):
        check_colour("whyte")
