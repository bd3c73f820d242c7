"""Sizes and aspect ratios of pictures, and the shapes that they are best trained at."""

from typing import NamedTuple

import numpy as np

from fluxflow_exp.data.buckets import MULTIPLE, Size, bucket_sizes
from fluxflow_exp.data.check.duplicates import Array

RATIOS = (1.0, 1.3, 1.6, 1.9, 2.2, 2.5, 3.0)  # longest aspect ratios that are proposed; 1: squares
GAIN = 0.02  # of the pixels: a wider range of shapes is to keep so much more
FEW = 0.05  # of the pictures that may be enlarged
MOST = 0.5  # of them that are not


class Shapes(NamedTuple):
    """What becomes of pictures at about img_size² pixels with shapes up to `max_ratio`."""

    max_ratio: float
    kept: float  # mean share of a picture's pixels that is not cut off
    enlarged: float  # share of the pictures
    counts: dict[Size, int]  # pictures of each (height, width)


def shapes_of(sizes: Array, img_size: int, max_ratio: float) -> Shapes:
    """Of n pictures with (n, 2) `sizes`, height and width."""
    choices = bucket_sizes(img_size, max_ratio)
    wide = np.log(sizes[:, 1] / sizes[:, 0])
    offered = np.log([width / height for height, width in choices])
    which = np.concatenate([
        np.abs(part[:, None] - offered).argmin(1) for part in np.array_split(wide, len(wide) // 10_000 + 1)
    ])  # fmt: skip
    to = np.array(choices)[which]
    kept = np.exp(-np.abs(wide - offered[which]))
    counts = np.bincount(which, minlength=len(choices)).tolist()
    found = {choice: count for choice, count in zip(choices, counts, strict=True) if count}
    return Shapes(max_ratio, float(kept.mean()), float((sizes < to).any(1).mean()), found)


def proposed(sizes: Array, img_size: int) -> Shapes:
    """The narrowest range of shapes from which no wider one keeps GAIN more of the pixels."""
    offered = [shapes_of(sizes, img_size, ratio) for ratio in RATIOS]
    best = max(each.kept for each in offered)
    return next(each for each in offered if each.kept >= best - GAIN)


def largest(sizes: Array) -> int:
    """The largest size of squares, a multiple of 16, at which at most FEW of the pictures are enlarged."""
    shortest = np.sort(sizes.min(1))
    return max(int(shortest[int(FEW * len(shortest))]) // MULTIPLE * MULTIPLE, MULTIPLE)


def fitting(sizes: Array, img_size: int) -> int:
    """The size to train at: `img_size`, or the `largest` where squares of `img_size` would enlarge most pictures."""
    return min(img_size, largest(sizes)) if shapes_of(sizes, img_size, 1.0).enlarged > MOST else img_size


def overrides(found: Shapes, img_size: int) -> str:
    """The words for a training command."""
    return f"data.img_size={img_size}" + (f" data.buckets={found.max_ratio:g}" if found.max_ratio > 1 else "")
