"""Drawing one shape: signed distances, anti-aliased over one pixel."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[Any]  # float32
Triple = tuple[str, str, str]  # kind, colour, ground

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (40, 60, 220),
    "yellow": (245, 220, 40),
    "cyan": (60, 210, 220),
    "magenta": (215, 60, 200),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}
CENTRE_JITTER = 0.06  # of the image side, each way
RADIUS = (0.30, 0.38)  # of the image side


def circle(x: Grid, y: Grid) -> Grid:
    distance: Grid = np.hypot(x, y) - np.float32(0.95)
    return distance


def square(x: Grid, y: Grid) -> Grid:
    distance: Grid = np.maximum(np.abs(x), np.abs(y)) - np.float32(0.86)
    return distance


def triangle(x: Grid, y: Grid) -> Grid:
    """Point upwards."""
    slanted = np.abs(x) * np.float32(0.88) + (-y) * np.float32(0.475)
    distance: Grid = np.maximum(slanted - np.float32(0.475), y - np.float32(0.8)).astype(np.float32)
    return distance


def ring(x: Grid, y: Grid) -> Grid:
    distance: Grid = np.abs(np.hypot(x, y) - np.float32(0.72)) - np.float32(0.27)
    return distance


def cross(x: Grid, y: Grid) -> Grid:
    a, b = np.abs(x), np.abs(y)
    bar = np.minimum(np.maximum(a - np.float32(0.3), b - 1), np.maximum(a - 1, b - np.float32(0.3)))
    distance: Grid = bar.astype(np.float32)
    return distance


def star(x: Grid, y: Grid) -> Grid:
    """Five points, one upwards."""
    angle = np.arctan2(x, -y)
    sector = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    radius = np.hypot(x, y)
    px, py = radius * np.cos(sector), radius * np.sin(sector)
    # The edge from the inner corner, at 36° and radius 0.48, to the tip at (1.1, 0); its normal points outwards.
    corner = 0.48 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    normal = np.array([corner[1], 1.1 - corner[0]]) / np.hypot(corner[1], 1.1 - corner[0])
    distance: Grid = ((px - 1.1) * normal[0] + py * normal[1]).astype(np.float32)
    return distance


KINDS: dict[str, Callable[[Grid, Grid], Grid]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "ring": ring,
    "cross": cross,
    "star": star,
}


def caption_of(triple: Triple) -> str:
    kind, colour, ground = triple
    return f"a {colour} {kind} on a {ground} ground"


def coverage(kind: str, img_size: int, *, centre: tuple[float, float], radius: float) -> Grid:
    """How much of each pixel the shape covers, 0 to 1, (img_size, img_size). Centre and radius in pixels."""
    axis = np.arange(img_size, dtype=np.float32) + np.float32(0.5)
    x = (axis[None, :] - np.float32(centre[0])) / np.float32(radius)
    y = (axis[:, None] - np.float32(centre[1])) / np.float32(radius)
    x, y = np.broadcast_arrays(x, y)
    distance = KINDS[kind](x, y) * np.float32(radius)
    covered: Grid = np.clip(np.float32(0.5) - distance, 0, 1)
    return covered


def render(triple: Triple, img_size: int, rng: random.Random) -> NDArray[np.uint8]:
    """(3, img_size, img_size); place and size drawn from `rng`."""
    kind, colour, ground = triple
    centre = tuple(img_size * (0.5 + rng.uniform(-CENTRE_JITTER, CENTRE_JITTER)) for _ in range(2))
    radius = img_size * rng.uniform(*RADIUS)
    covered = coverage(kind, img_size, centre=(centre[0], centre[1]), radius=radius)
    inside, outside = (np.array(COLOURS[c], dtype=np.float32)[:, None, None] for c in (colour, ground))
    return np.rint(outside + (inside - outside) * covered).astype(np.uint8)
