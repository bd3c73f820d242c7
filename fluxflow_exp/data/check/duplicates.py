"""Pictures that are there twice: the same bytes, or nearly the same picture, mirrored or not.

Near copies have nearly the same brightness, or would have it if one were brighter, darker or of other contrast by up to
a fifth, and in no part another colour: a drawing in red and in blue are two.
Candidates are found by hashes of the brightness, the sides of random hyperplanes that it lies on (Charikar 2002,
Similarity estimation techniques from rounding algorithms, section 3): a bit of two pictures differs with probability
angle / pi. The hashes are sorted, and each is compared with its neighbours (Hernandez and Stolfo 1995, The merge/purge
problem for large databases), so that the work grows as n log n.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fluxflow_exp.data.check.look import COLOUR, GREY, PLAIN

Array = np.ndarray[Any, np.dtype[Any]]

BITS = 64  # of a hash
SAME_BITS = 16  # at the front, that neighbours agree in
NEIGHBOURS = 64  # at most, that a hash is compared with in an order
ORDERS = 8  # each by other hyperplanes: 98 % of copies with a correlation of 0.985 are met, and nearer ones always
BITS_APART = 12  # at most, of candidates: at that correlation 3.5 are expected
CORRELATION = 0.985  # of brightness, at least: a picture compressed hard, made small or cut by 1 % all around is above
APART = 12.0  # of 255: mean distance of brightness and of colours, at most
# Of 255, at most: the distance of the hue and saturation (Cb, Cr) of any of the 4 x 4 cells. Of 678 drawings compressed
# hard, made small, cut, or paler, brighter and less saturated by a tenth, the furthest was 13.7.
RECOLOURED = 16.0
# Times that a copy may be brighter or darker, or have more or less contrast: 15 % less is 1 / 1.18. Of 300 smooth
# pictures changed by 15 % in either way all but two were found, of drawings in saturated colours made brighter, which
# clips them, 87 %.
RELIT = 1.2
CHROMA = np.array([[-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32).T  # JFIF, of red, green, blue
PART = 16_384  # pairs that are compared at once


class Pair(NamedTuple):
    """Two pictures by index, the lower one first."""

    first: int
    second: int
    exact: bool = False  # the same bytes
    mirrored: bool = False
    distance: float = 0.0  # of 255, without what RELIT allows


class Groups:
    """Sets of the indices below `count` that chains of links connect."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, index: int) -> int:
        """The lowest index of its set."""
        parent = self._parent
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    def join(self, one: int, other: int) -> bool:
        """Link two; whether they were not connected before."""
        low, high = sorted((self.root(one), self.root(other)))
        self._parent[high] = low
        return low != high

    def members(self) -> list[list[int]]:
        """The sets of two or more, in their order."""
        found: dict[int, list[int]] = {}
        for index in range(len(self._parent)):
            found.setdefault(self.root(index), []).append(index)
        return [each for each in found.values() if len(each) > 1]


def pairs(digests: Array, kept: Array) -> list[Pair]:
    """Pairs of copies among n pictures, fewer than n, by which all copies are connected; exact ones first.

    (n, 16) uint8 `digests` are those of their files, (n, 304) uint8 `kept` is what they look like. Where the
    brightness is constant, nothing is hashed: such pictures are copies only where their bytes are.
    """
    _, first, which = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    origin = first[which.ravel()]
    found = [Pair(int(origin[i]), int(i), exact=True) for i in np.flatnonzero(origin != np.arange(len(origin)))]
    single = np.sort(first)
    single = single[np.ptp(kept[single, : GREY * GREY].astype(np.int16), axis=1) > PLAIN]
    near = _near(kept[single])
    return found + [each._replace(first=int(single[each.first]), second=int(single[each.second])) for each in near]


def _near(kept: Array) -> list[Pair]:
    """Pairs of rows that show nearly the same, the nearest first."""
    count = len(kept)
    found, groups, rng = list[Pair](), Groups(count), np.random.default_rng(0)
    for _ in range(ORDERS):
        planes = rng.standard_normal((GREY, GREY, BITS), np.float32)
        both = np.concatenate([hashes(kept, planes), hashes(kept, planes[:, ::-1])])  # row i mirrored is at i + count
        for one, other in _neighbours(both):
            low, high = np.minimum(one, other), np.maximum(one, other)
            wanted = (low < count) & (high - low != count)  # the mirror images of two are the pair that the two are
            alike = sorted(_compared(kept, low[wanted], high[wanted]), key=lambda pair: pair.distance)
            found += [pair for pair in alike if groups.join(pair.first, pair.second)]
    return sorted(found, key=lambda pair: pair.distance)


def hashes(kept: Array, planes: Array) -> Array:
    """(n, 304) uint8 → (n,) uint64: on which sides of hyperplanes, (16, 16, 64), the brightness but its mean lies."""
    flat = (planes - planes.mean((0, 1))).reshape(-1, BITS)  # so that a mean makes no difference
    found = np.empty(len(kept), np.uint64)
    for start in range(0, len(kept), PART):
        sides = kept[start : start + PART, : GREY * GREY].astype(np.float32) @ flat > 0
        found[start : start + PART] = np.packbits(sides, axis=1).view(">u8").ravel()
    return found


def _neighbours(values: Array) -> Iterator[tuple[Array, Array]]:
    """Pairs of indices of hashes that agree in their first bits, and nearly in all."""
    at = np.argsort(values, kind="stable")
    values = values[at]
    front = values >> np.uint64(BITS - SAME_BITS)
    for step in range(1, min(NEIGHBOURS, len(at) - 1) + 1):
        met = np.flatnonzero(front[:-step] == front[step:])
        if not len(met):
            return
        apart = _COUNTS[(values[met] ^ values[met + step]).view(np.uint8).reshape(-1, 8)].sum(axis=1)
        met = met[apart <= BITS_APART]
        yield at[met], at[met + step]


_COUNTS = np.array([each.bit_count() for each in range(256)], np.uint8)


def _compared(kept: Array, low: Array, high: Array) -> Iterator[Pair]:
    """The pairs (low, high) of rows that are alike; a number beyond the rows is the mirror image of one."""
    count = len(kept)
    for start in range(0, len(low), PART):
        one, other = low[start : start + PART], high[start : start + PART] % count
        mirrored = high[start : start + PART] >= count
        (grey, colour), (grey_2, colour_2) = _cells(kept[one]), _cells(kept[other], mirrored)
        a, b = (each - each.mean((1, 2), keepdims=True) for each in (grey, grey_2))
        correlation = (a * b).sum((1, 2)) / np.sqrt((a * a).sum((1, 2)) * (b * b).sum((1, 2)))
        alike = np.flatnonzero(correlation >= CORRELATION)
        first, second = (grey[alike], colour[alike]), (grey_2[alike], colour_2[alike])
        apart = np.minimum(_apart(*first, *second), _apart(*first, *_relit(first[0], *second)))
        for i, distance in zip(alike[apart <= APART], apart[apart <= APART], strict=True):
            lower, upper = sorted((int(one[i]), int(other[i])))
            yield Pair(lower, upper, mirrored=bool(mirrored[i]), distance=float(distance))


def _apart(grey: Array, colour: Array, grey_2: Array, colour_2: Array) -> Array:
    """(n,) mean distances of brightness or of colours, the larger ones; infinite where a part has another colour."""
    apart = np.maximum(np.abs(grey - grey_2).mean((1, 2)), np.abs(colour - colour_2).mean((1, 2, 3)))
    recoloured = np.linalg.norm((colour - colour_2) @ CHROMA, axis=3).max((1, 2))
    found: Array = np.where(recoloured <= RECOLOURED, apart, np.inf)
    return found


def _relit(grey: Array, grey_2: Array, colour_2: Array) -> tuple[Array, Array]:
    """The second pictures with the mean brightness and the contrast of the first ones, as far as RELIT allows."""
    mean, contrast = grey_2.mean((1, 2)), grey_2.std((1, 2))
    lit, more = (
        np.clip(wanted / there, 1 / RELIT, RELIT)
        for wanted, there in ((grey.mean((1, 2)), mean), (grey.std((1, 2)), contrast))
    )
    gain, shift = more[:, None, None], (mean * (lit - more))[:, None, None]
    return grey_2 * gain + shift, colour_2 * gain[..., None] + shift[..., None]


def _cells(rows: Array, mirrored: Array | None = None) -> tuple[Array, Array]:
    """(n, 304) uint8 → brightness (n, 16, 16) and colours (n, 4, 4, 3) of 0 to 255, some of them mirrored."""
    grey = rows[:, : GREY * GREY].reshape(-1, GREY, GREY).astype(np.float32)
    colour = rows[:, GREY * GREY :].reshape(-1, COLOUR, COLOUR, 3).astype(np.float32)
    if mirrored is not None:
        grey[mirrored], colour[mirrored] = grey[mirrored, :, ::-1], colour[mirrored, :, ::-1]
    return grey, colour
