"""Reading a drawing back: which kind of shape, in which colour, on which ground.

The ground is the colour nearest to the border's median, the shape's the one that most other pixels are nearest to.
The kind is the one whose outline, at the place and size that fit best, covers the same pixels; a foreground that no
kind fits is read as "nothing".
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fluxflow_exp.data.shapes_geometry import CENTRE_JITTER, COLOURS, KINDS, RADIUS, Triple, coverage

MIN_OVERLAP = 0.7  # intersection over union below which a foreground is no known shape
NOTHING = "nothing"

_NAMES = list(COLOURS)
_PALETTE = np.array(list(COLOURS.values()), dtype=np.float32)


def read_shapes(images: Tensor) -> list[Triple]:
    """uint8 (n, 3, side, side) → n triples of kind, colour, ground."""
    return [read_shape(image) for image in images]


def read_shape(image: Tensor) -> Triple:
    """uint8 (3, side, side) → kind, colour, ground."""
    pixels = image.permute(1, 2, 0).cpu().numpy().astype(np.float32)
    side = len(pixels)
    edge = max(side // 16, 1)
    border = np.concatenate([pixels[:edge].reshape(-1, 3), pixels[-edge:].reshape(-1, 3), pixels[:, 0], pixels[:, -1]])
    ground = int(_nearest(np.median(border, 0)))
    inner = _nearest(pixels)
    counts = np.bincount(inner.ravel(), minlength=len(_PALETTE))
    counts[ground] = 0
    if counts.sum() < 0.02 * side * side:
        return NOTHING, NOTHING, _NAMES[ground]
    colour = int(counts.argmax())
    return _kind(_foreground(pixels, ground, colour)), _NAMES[colour], _NAMES[ground]


def _nearest(pixels: NDArray[np.float32]) -> NDArray[np.int64]:
    distances: NDArray[np.float32] = np.square(pixels[..., None, :] - _PALETTE).sum(-1)
    nearest: NDArray[np.int64] = distances.argmin(-1)
    return nearest


def _foreground(pixels: NDArray[np.float32], ground: int, colour: int) -> NDArray[np.float32]:
    """Each pixel's place on the line from the ground to the shape's colour, 0 to 1."""
    start, line = _PALETTE[ground], _PALETTE[colour] - _PALETTE[ground]
    share: NDArray[np.float32] = ((pixels - start) @ line) / (line @ line)
    return np.clip(share, 0, 1)


def _kind(foreground: NDArray[np.float32]) -> str:
    names, templates = _templates(len(foreground))
    flat = foreground.ravel()
    # Intersection over union of soft masks: Σ min / Σ max.
    smaller = np.minimum(templates, flat).sum(1)
    overlap = smaller / (templates.sum(1) + flat.sum() - smaller)
    best = int(overlap.argmax())
    return names[best] if overlap[best] >= MIN_OVERLAP else NOTHING


@lru_cache(maxsize=4)
def _templates(side: int) -> tuple[list[str], NDArray[np.float32]]:
    """Every kind at a lattice of places and sizes a little beyond those that are drawn."""
    reach = side * (CENTRE_JITTER + 0.03)
    offsets = np.linspace(-reach, reach, 7)
    radii = np.linspace(side * (RADIUS[0] - 0.03), side * (RADIUS[1] + 0.03), 7)
    names, masks = [], []
    for kind in KINDS:
        for dx in offsets:
            for dy in offsets:
                for radius in radii:
                    names.append(kind)
                    masks.append(coverage(kind, side, centre=(side / 2 + dx, side / 2 + dy), radius=radius).ravel())
    return names, np.array(masks, dtype=np.float32)
