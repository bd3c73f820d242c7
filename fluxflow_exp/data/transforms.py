"""From an image file to a square RGB tensor: every mode that PIL reads, no stretching.

Sizes change by Lanczos' filter: torch's, which has vector instructions, or Pillow's where torch is too old to have one.
The two differ by two of 255 at most, and seldom.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageColor
from torch import Tensor

from fluxflow_exp.data import decoding
from fluxflow_exp.data.colour import to_srgb
from fluxflow_exp.data.decoding import decode, opened

REDUCING_GAP = 3.0  # a much larger image is averaged down to three times its size first; it cannot be told apart
ENLARGED = 2**24  # pixels: up to here a whole picture is enlarged and then cut, beyond only what is cut out
STRIP = 2**24  # pixels: larger pictures are converted a part at a time

_VECTORISED = hasattr(torch.ops.aten, "_upsample_lanczos2d_aa")


def open_rgb(file: Path | IO[bytes], *, background: str = "white", at_least: int | None = None) -> Image.Image:
    """The first frame of an image file in sRGB, upright, transparency composited on `background`.

    16-bit images keep their upper eight bits. `at_least`: pixels of the short side that a JPEG may be decoded down
    to. OSError: missing, truncated, undecodable, or too large to be an honest picture.
    """
    with opened(file) as image:
        return as_rgb(decode(image, at_least=at_least), background=background)


def as_rgb(decoded: Image.Image, *, background: str = "white") -> Image.Image:
    """The same of a picture of any mode whose pixels are there."""
    return _flatten(to_srgb(_eight_bits(decoded), decoded.info.get("icc_profile")), background)


def square(image: Image.Image, size: int, *, place: tuple[float, float] = (0.5, 0.5)) -> Tensor:
    """`fit` to size × size."""
    return fit(image, (size, size), place=place)


def fit(image: Image.Image, size: tuple[int, int], *, place: tuple[float, float] = (0.5, 0.5)) -> Tensor:
    """Resize an RGB image until it covers (height, width) `size`, then cut that out, without stretching.

    `place`: (0, 0) cuts at the left and top, (1, 1) at the right and bottom. Gives uint8 (3, height, width).
    """
    scale = max(size[1] / image.width, size[0] / image.height)
    width, height = max(size[1], round(image.width * scale)), max(size[0], round(image.height * scale))
    left, top = round((width - size[1]) * place[0]), round((height - size[0]) * place[1])
    if (width, height) == image.size:
        return to_tensor(image.crop((left, top, left + size[1], top + size[0])))
    if not _VECTORISED or width * height > max(image.width * image.height, ENLARGED):
        return to_tensor(_resized_part(image, (width, height), (left, top), size))
    whole = _pixels(image).permute(2, 0, 1)[None]
    resized = F.interpolate(whole, (height, width), mode="lanczos", antialias=True)[0]
    return resized[:, top : top + size[0], left : left + size[1]].contiguous()


def _resized_part(
    image: Image.Image, to: tuple[int, int], corner: tuple[int, int], size: tuple[int, int]
) -> Image.Image:
    """Cut at (left, top) `corner` of `image` resized `to` (width, height); nothing else is worked out."""
    across, down = image.width / to[0], image.height / to[1]
    (left, top), (height, width) = corner, size
    box = (
        left * across,
        top * down,
        min((left + width) * across, image.width),
        min((top + height) * down, image.height),
    )
    return image.resize((width, height), Image.Resampling.LANCZOS, box, REDUCING_GAP)


def upright_size(file: Path | IO[bytes]) -> tuple[int, int]:
    """(height, width) of an image as it will be shown, from its header alone. OSError: it has none."""
    with opened(file) as image:
        return decoding.upright_size(image)


def to_tensor(image: Image.Image) -> Tensor:
    """RGB → uint8 (3, height, width)."""
    return _pixels(image).permute(2, 0, 1).contiguous()


def check_colour(name: str) -> None:
    """ValueError: PIL knows no such colour."""
    try:
        ImageColor.getrgb(name)
    except ValueError as error:
        raise ValueError(f"background={name!r} is no colour (a name such as white, or #rrggbb)") from error


def _pixels(image: Image.Image) -> Tensor:
    """RGB → uint8 (height, width, 3), to be read only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch knows no tensors that must not be written to
        return torch.from_numpy(np.asarray(image))


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit greyscale to 8 bits, which PIL's own conversion clips; floats of 0 to 1, or to 255; no number is 0."""
    if not image.mode.startswith("I") and image.mode != "F":
        return image
    values = np.asarray(image)
    whole = image.mode != "F"
    top = 65535.0 if whole else 255.0 if values.max(initial=0) > 1 else 1.0
    made = np.empty(values.shape, np.uint8)
    for rows in _strips(image):
        part = values[rows].astype(np.float64).clip(0, top)
        made[rows] = np.nan_to_num(part / 257 if whole else part / top * 255).round()
    return Image.fromarray(made)


def _flatten(image: Image.Image, background: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    if image.width * image.height <= STRIP:
        return _composite(image, background)
    made = Image.new("RGB", image.size)
    for rows in _strips(image):
        made.paste(_composite(image.crop((0, rows.start, image.width, rows.stop)), background), (0, rows.start))
    return made


def _composite(image: Image.Image, background: str) -> Image.Image:
    layer = image.convert("RGBA")
    if layer.getchannel("A").getextrema() == (255, 255):
        return layer.convert("RGB")
    ground = Image.new("RGBA", layer.size, background)
    ground.alpha_composite(layer)
    return ground.convert("RGB")


def _strips(image: Image.Image) -> Iterator[slice]:
    """Rows that are worked on at once; all of them, unless the image is very large."""
    height = max(STRIP // image.width, 1)
    for top in range(0, image.height, height):
        yield slice(top, min(top + height, image.height))
