"""From the colours that a picture's embedded ICC profile means to sRGB, which pictures without one are taken for.

Specification ICC.1:2022; Little CMS converts, with the perceptual intent. A profile that says that it is sRGB, or
whose colours are sRGB's, changes nothing.
"""

import sys
from functools import lru_cache
from io import BytesIO
from itertools import product
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

SAME = 2  # of 255: a profile that moves no colour further is sRGB, as another program writes it

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # a profile's colour space → the mode that is converted
_FITTING = {"RGB": ("RGB", "RGBA", "RGBX", "P", "PA", "L", "LA", "1"), "L": ("L", "LA", "1"), "CMYK": ("CMYK",)}


class _Conversion(NamedTuple):
    mode: str
    transform: ImageCms.ImageCmsTransform


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An image of at most eight bits a channel in sRGB; its transparency stays.

    The image itself if the profile is sRGB, cannot be read, or is one of images of another kind.
    """
    conversion = _conversion(profile) if profile else None
    if conversion is None or not _fits(image, conversion):
        return image
    alpha = None
    if "A" in image.getbands() or "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
    plain = image if image.mode == conversion.mode else image.convert(conversion.mode)
    converted = ImageCms.applyTransform(plain, conversion.transform)
    assert converted is not None  # only in place it returns nothing
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def changes(image: Image.Image, profile: bytes | None) -> bool:
    """Whether `to_srgb` makes another image of it."""
    conversion = _conversion(profile) if profile else None
    return conversion is not None and _fits(image, conversion)


def _fits(image: Image.Image, conversion: _Conversion) -> bool:
    return image.mode in _FITTING[conversion.mode]


@lru_cache(maxsize=16)  # most sets have one or two, a print shop's of 2 MB each
def _conversion(profile: bytes) -> _Conversion | None:
    """None: nothing is to be done. A profile that cannot be read is told of once a process."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = _MODES.get(source.profile.xcolor_space.strip())
        if mode is None or "srgb" in (source.profile.profile_description or "").lower():
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception as error:  # of a decoder, over bytes of any origin
        print(f"an embedded colour profile cannot be read and is taken for sRGB: {error}", file=sys.stderr, flush=True)
        return None
    return None if mode != "CMYK" and _moves(transform, mode) <= SAME else _Conversion(mode, transform)


def _moves(transform: ImageCms.ImageCmsTransform, mode: str) -> int:
    """How far a transform to RGB takes the furthest of some colours, in any channel."""
    levels = list(range(256)) if mode == "L" else list(product(range(0, 256, 51), repeat=3))
    given = np.array(levels, dtype=np.uint8)[None]
    found = np.asarray(ImageCms.applyTransform(Image.fromarray(given), transform)).astype(int)
    return int(np.abs(found - (given[..., None] if mode == "L" else given)).max())
