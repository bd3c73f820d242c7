"""One picture, read as training reads it, and what is to be known of it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fluxflow_exp.data.buckets import Size
from fluxflow_exp.data.colour import changes
from fluxflow_exp.data.decoding import check_regular, decode, opened, reason, turn_of, upright_size
from fluxflow_exp.data.transforms import as_rgb

GREY, COLOUR = 16, 4  # cells a side of what is kept of a picture: its brightness, its colours
KEPT = GREY * GREY + COLOUR * COLOUR * 3  # bytes
DIGEST = 16  # bytes of the SHA-256 of a file
PLAIN = 1  # of 255: a channel, or brightness, that varies no more is constant

# What is unusual about a picture, and what training makes of it.
KINDS = {
    "turned": "EXIF rotation: trained on upright",
    "CMYK": "CMYK: converted to sRGB",
    "16 bit": "16 bits or floats a channel: the upper eight are kept, so scales of 12 bits are dark",
    "palette": "palette: converted to sRGB",
    "grey": "grey: three equal channels",
    "other mode": "other modes (YCbCr, Lab, HSV): converted to sRGB",
    "transparent": "transparency: composited on data.background",
    "profile": "colour profile other than sRGB: converted",
    "animated": "animation: the first frame is used",
    "plain": "one colour throughout",
}


class Look(NamedTuple):
    """What was found in a file."""

    wrong: str = ""  # why it cannot be read, if so; then the others hold nothing
    size: Size = (0, 0)  # (height, width), upright
    kinds: tuple[str, ...] = ()  # of KINDS
    digest: bytes = b""
    kept: bytes = b""  # GREY² of brightness, then COLOUR² of (red, green, blue)


def look(path: Path, *, at_least: int) -> Look:
    """Read a picture; `at_least`: pixels of the short side that a JPEG is decoded down to, as in training."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()[:DIGEST]
        with opened(path) as image:
            kinds = list(_of_file(image))
            kinds = ["turned", *kinds] if turn_of(image) is not None else kinds
            size = upright_size(image)
            decoded = decode(image, at_least=at_least)
            kinds += _of_pixels(decoded)
            shown = as_rgb(decoded)
            kept = kept_of(shown)
    except OSError as error:
        return Look(reason(error))
    # Of every channel and pixel: red and green may be equally bright, and the cells of a pattern have equal means.
    kinds += ["plain"] if all(high - low <= PLAIN for low, high in shown.getextrema()) else []  # type: ignore[misc]
    return Look("", size, tuple(kinds), digest, kept.tobytes())


def _of_file(image: Image.Image) -> Iterator[str]:
    deep = image.mode == "F" or image.mode.startswith("I") or ";16" in str(getattr(image, "tile", ""))
    if deep:
        yield "16 bit"
    elif image.mode in ("1", "L", "LA", "La"):
        yield "grey"
    elif image.mode in ("P", "PA"):
        yield "palette"
    elif image.mode == "CMYK":
        yield "CMYK"
    elif image.mode not in ("RGB", "RGBA", "RGBa", "RGBX"):
        yield "other mode"
    if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: a phone's second picture
        yield "animated"


def _of_pixels(image: Image.Image) -> Iterator[str]:
    if "A" not in image.getbands() and "transparency" in image.info:
        image = image.convert("RGBA")
    if "A" in image.getbands() and image.getchannel("A").getextrema() != (255, 255):
        yield "transparent"
    if changes(image, image.info.get("icc_profile")):
        yield "profile"


def kept_of(shown: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What an RGB picture looks like, (304,): GREY² of brightness, then COLOUR² of (red, green, blue)."""
    small = shown.resize((GREY, GREY), Image.Resampling.BOX)
    grey, colour = small.convert("L"), small.resize((COLOUR, COLOUR), Image.Resampling.BOX)
    return np.concatenate([np.asarray(grey).ravel(), np.asarray(colour).ravel()])
