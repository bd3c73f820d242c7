"""How many standard errors a mean must lie from zero when it is looked at after every seed.

The error of 5 % is spent over looks by a function of the number of seeds (Lan and DeMets, "Discrete sequential
boundaries for clinical trials", Biometrika 70, 1983), exactly for Student's t with its spread estimated anew at each
look (Jennison and Turnbull, "Exact calculations for sequential t, χ² and F tests", Biometrika 78, 1991). Boundaries of
the normal distribution would be crossed far too often at three seeds.

Of n independent normal values of mean 0, u = Σx/√Σx² is a Markov chain: a further value makes u cos ψ + sin ψ of it,
with an angle ψ in (-π/2, π/2) of density ∝ cosⁿ⁻¹ψ that depends on nothing before, since the direction of a normal
vector is independent of its length. Student's t is u √((n-1)/(n-u²)). So the density of u among studies that were not
stopped is known after n + 1 seeds from that after n, by one integral.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
from scipy.special import gammaln

from fluxflow_exp.config.bounds import Fraction, PositiveInt

FIRST = 3  # seeds at the first look
GRID, NODES = 256, 32  # of u, and of the integral over ψ: limits are too wide, by at most 0.3 %


def spent(seeds: int) -> float:
    """The part of the error, in [0, 1), that looks at 3, 4, … `seeds` seeds have used: half of it by 8.

    It never reaches 1, so that a study may always go on, also one whose budget was raised after a look at it.
    """
    return max(0.0, (seeds - 2) / (seeds + 4))


def limit(seeds: PositiveInt, level: Fraction) -> float:
    """The |t| that counts at `seeds` seeds, at least 3. Chance alone exceeds any limit at any look with chance `level`.

    It holds whether or not one looks at all of them, and whenever one stops: mean ± limit × standard error is a
    repeated confidence interval (Jennison and Turnbull, "Interim analyses: the repeated confidence interval approach",
    Journal of the Royal Statistical Society B 51, 1989).
    """
    known, walk = _known(level)
    while len(known) <= seeds - FIRST:
        known.append(next(walk))
    return known[seeds - FIRST]


@functools.cache
def _known(level: float) -> tuple[list[float], Iterator[float]]:
    return [], limits(level, spent)


def limits(level: Fraction, spent: Callable[[int], float]) -> Iterator[float]:
    """The limits at 3, 4, 5, … seeds, of which those up to n are exceeded with chance `level` × `spent(n)`."""
    node, weight = np.polynomial.legendre.leggauss(NODES)
    angle = np.linspace(0, math.pi / 2, GRID)
    # After three seeds u is uniform: Archimedes' theorem on the sphere.
    u_limit = math.sqrt(3) * (1 - level * spent(3))
    u, density = np.linspace(0, u_limit, GRID), np.full(GRID, 1 / (2 * math.sqrt(3)))
    yield _t(3, u_limit)
    for seeds in itertools.count(4):
        # |u| reaches √(1 + limit²) at most: nodes at the sines of `angle` are dense there, where the tail is.
        most, turn = math.hypot(1, u_limit), math.atan(u_limit)
        low, high = angle - turn, np.minimum(angle + turn, math.pi - angle - turn)  # ψ from where |u| was allowed
        half = (high - low) / 2
        psi = ((low + high) / 2)[:, None] + half[:, None] * node
        before = np.abs((most * np.sin(angle)[:, None] - np.sin(psi)) / np.cos(psi))
        of_psi = math.exp(gammaln(seeds / 2) - gammaln((seeds - 1) / 2)) / math.sqrt(math.pi)
        density = of_psi * half * ((np.interp(before, u, density) * np.cos(psi) ** (seeds - 3)) @ weight)
        u = most * np.sin(angle)
        slope = density * most * np.cos(angle)
        parts = (slope[1:] + slope[:-1]) / 2 * (angle[1] - angle[0])
        beyond = 2 * np.append(np.cumsum(parts[::-1])[::-1], 0.0)  # chance of a larger |u|, at each node
        step = level * (spent(seeds) - spent(seeds - 1))
        u_limit = most * math.sin(np.interp(step, beyond[::-1], angle[::-1]))
        yield _t(seeds, u_limit)


def _t(seeds: int, u: float) -> float:
    return math.inf if u * u >= seeds else u * math.sqrt((seeds - 1) / (seeds - u * u))
