"""Aspect-ratio buckets and several scales: which size each image is trained at, so that a batch has one shape."""

import math
from typing import NamedTuple

Size = tuple[int, int]  # height, width

MULTIPLE = 16  # pixels: every model here halves at most four times


class Variant(NamedTuple):
    """An image at one of its training sizes."""

    image: int  # its index
    size: Size


def bucket_sizes(img_size: int, max_ratio: float) -> list[Size]:
    """Sizes of about img_size² pixels with sides of 16 pixels' multiples, no longer than `max_ratio` to 1.

    The square comes first. Every second width between the extremes is one (Anlas 2022's buckets, by steps of
    img_size/8). ValueError: max_ratio < 1.
    """
    if max_ratio < 1:
        raise ValueError(f"buckets is the longest aspect ratio, at least 1, not {max_ratio}")
    step = max(MULTIPLE, img_size // 8 // MULTIPLE * MULTIPLE)
    found = {(img_size, img_size): None}
    width = img_size
    while width + step <= img_size * math.sqrt(max_ratio) + 1e-6:
        width += step
        height = round(img_size**2 / width / MULTIPLE) * MULTIPLE
        if height >= MULTIPLE and width / height <= max_ratio + 1e-6:
            found |= {(height, width): None, (width, height): None}
    return list(found)


def nearest(size: Size, choices: list[Size]) -> Size:
    """The choice whose aspect ratio is nearest to that of `size` (by the ratio of ratios)."""
    wanted = math.log(size[1] / size[0])
    return min(choices, key=lambda c: abs(math.log(c[1] / c[0]) - wanted))


def variants(
    sizes: list[Size], *, img_size: int, max_ratio: float | None, reduced_min_sizes: list[int] | None
) -> list[Variant]:
    """The samples of an epoch: each image at full scale, and at each reduced one that is smaller than it.

    `sizes` are the images' own (height, width); without `max_ratio` every scale is square.
    """
    found = []
    scales = {scale: bucket_sizes(scale, max_ratio or 1.0) for scale in [img_size, *(reduced_min_sizes or [])]}
    for index, size in enumerate(sizes):
        for scale, choices in scales.items():
            if scale == img_size or (scale < img_size and min(size) > scale):
                found.append(Variant(index, nearest(size, choices)))
    return found


def check_scales(img_size: int, reduced_min_sizes: list[int] | None) -> None:
    """ValueError: a reduced size is not a multiple of 16, or not smaller than img_size."""
    for scale in reduced_min_sizes or []:
        if scale % MULTIPLE or not 0 < scale < img_size:
            raise ValueError(f"reduced_min_sizes: {scale} must be a multiple of {MULTIPLE} below img_size={img_size}")
