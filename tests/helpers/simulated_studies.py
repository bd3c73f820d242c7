"""Studies of `seeds: auto` whose truth is known, thousands at once; `python -m tests.helpers.simulated_studies` prints
the tables of docs/decisions/0019."""

from dataclasses import dataclass, replace

import numpy as np

from fluxflow_exp.compare.significance import CONFIDENCE, paired
from fluxflow_exp.study.boundary import FIRST, limit
from fluxflow_exp.study.sequential import MOST_SEEDS, seeds_needed, spread_at


@dataclass(frozen=True)
class Simulated:
    """Each (studies, arms), at the look that decided the arm or else at the last."""

    seeds: np.ndarray
    mean: np.ndarray
    half: np.ndarray
    shown: np.ndarray
    smaller: np.ndarray

    def covers(self, truth: np.ndarray) -> np.ndarray:
        """(studies): whether all intervals hold their true differences, (arms)."""
        return (np.abs(self.mean - truth) <= self.half).all(1)


def differences(kind: str, studies: int, arms: int, most: int, seed: int = 0) -> np.ndarray:
    """Arm less reference of the same seed, of true mean 0 and variance near 1: (studies, arms, most seeds)."""
    source = np.random.default_rng(seed)
    runs = (studies, arms + 1, most)
    if kind == "normal":
        noise = source.normal(size=runs)
    elif kind == "heavy tails":  # Student's with three degrees of freedom
        noise = source.standard_t(3, runs) / 3**0.5
    elif kind == "outliers":  # one run of twenty is five standard deviations off
        noise = source.normal(size=runs) + 5 * source.choice((-1, 1), runs) * (source.random(runs) < 0.05)
    elif kind == "rare failures":  # one run of ten is much worse, and runs of the reference never are
        noise = source.normal(0, 0.3, runs)
        noise[:, 1:] += 3 * ((source.random((studies, arms, most)) < 0.1) - 0.1)
    elif kind == "skewed":  # exponential, of the arms alone: those of reference and arm would cancel
        noise = source.exponential(1.4, runs) - 1.4
        noise[:, 0] = source.normal(0, 0.2, (studies, most))
    elif kind == "coarse":  # in steps of a standard deviation, as a share of few images
        noise = np.round(source.normal(size=runs))
    else:
        raise ValueError(kind)
    return (noise[:, 1:] - noise[:, :1]) / 2**0.5


KINDS = ("normal", "heavy tails", "outliers", "coarse", "skewed", "rare failures")


def run(values: np.ndarray, smallest: float | None = None) -> Simulated:
    """What `decide` does with `values`, (studies, arms, most seeds), if an arm ends when it is decided."""
    _, arms, most = values.shape
    count = np.arange(1, most + 1)
    limits = np.array([limit(seeds, (1 - CONFIDENCE) / arms) for seeds in range(FIRST, most + 1)])
    mean = values.cumsum(2) / count
    variance = np.maximum(np.square(values).cumsum(2) - count * mean**2, 0) / np.maximum(count - 1, 1)
    looks = (mean[..., FIRST - 1 :], np.sqrt(variance / count)[..., FIRST - 1 :])
    half = np.where(looks[1] > 1e-6, limits * looks[1], np.inf)  # alike: no interval
    shown = np.abs(looks[0]) > half
    smaller = ~shown & (np.abs(looks[0]) + half < (smallest or 0))
    decided = shown | smaller
    at = np.where(decided.any(2), decided.argmax(2), most - FIRST)

    def there(of: np.ndarray) -> np.ndarray:
        return np.take_along_axis(of, at[..., None], 2)[..., 0]

    return Simulated(at + FIRST, there(looks[0]), there(half), there(shown), there(smaller))


def share(of: np.ndarray) -> str:
    """A share and twice its Monte-Carlo error, in per cent."""
    found = of.mean()
    return f"{100 * found:.1f} ± {200 * (found * (1 - found) / len(of)) ** 0.5:.1f}"


def said_after(values: np.ndarray, seeds: int, effect: float) -> np.ndarray:
    """How many seeds of each study's first arm are said to show `effect`, after `seeds` of them; else MOST_SEEDS."""
    spreads = np.geomspace(0.005, 10, 400)
    level = (1 - CONFIDENCE) / values.shape[1]
    alone = paired([-1.0, 0.0, 1.0], [0.0] * 3)  # of spread 1
    numbers = [seeds_needed(effect, replace(alone, spread=float(each)), level) or MOST_SEEDS for each in spreads]
    middle = spread_at(paired(list(range(seeds)), [0.0] * seeds), 0.5) / np.arange(seeds).std(ddof=1)
    return np.interp(middle * values[:, 0, :seeds].std(1, ddof=1), spreads, numbers).round()


def false_findings() -> None:
    print("| differences | arms | up to | false findings, % | all intervals cover, % | of a true 1, % | mean seeds |")
    print("|---|---|---|---|---|---|---|")
    for kind in KINDS:
        for arms, most in ((1, 10), (3, 10), (3, 40)):
            values = differences(kind, 20_000, arms, most)
            found, planted = run(values, smallest=1.0), run(values + 1, smallest=1.0)
            covered = f"{share(found.covers(np.zeros(arms)))} | {share(planted.covers(np.ones(arms)))}"
            print(f"| {kind} | {arms} | {most} | {share(found.shown.any(1))} | {covered} | {found.seeds.mean():.1f} |")


def planted() -> None:
    print("| difference | arms | needed | shown by then, % | said after 3 seeds | shown by then, % |", end="")
    print(" in the end: shown, % | smaller, % | mean seeds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for arms in (1, 3):
        for effect in (0.7, 1.0, 1.5, 2.0, 3.0):
            values = differences("normal", 4_000, arms, MOST_SEEDS) + effect
            found = run(values, smallest=effect)
            shown, seeds = found.shown[:, 0], found.seeds[:, 0]
            needed = seeds_needed(effect, paired([-1.0, 0.0, 1.0], [0.0] * 3), (1 - CONFIDENCE) / arms)
            said = said_after(values, 3, effect)
            low, middle, high = np.quantile(said, (0.1, 0.5, 0.9))
            print(f"| {effect} | {arms} | {needed} | {share(shown & (seeds <= needed))} |", end="")
            print(f" {middle:.0f} ({low:.0f} to {high:.0f}) | {share(shown & (seeds <= said))} |", end="")
            print(f" {share(shown)} | {share(found.smaller[:, 0])} | {seeds.mean():.1f} |")


if __name__ == "__main__":
    false_findings()
    planted()
