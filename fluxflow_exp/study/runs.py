"""The runs of a study: which there are to be, what has become of each, and which ones no longer belong to it."""

import copy
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.override_keys import merged
from fluxflow_exp.config.override_words import as_text
from fluxflow_exp.config.overrides import composed
from fluxflow_exp.errors import UserError, few
from fluxflow_exp.run import lookup, refusals, states
from fluxflow_exp.run.differing import leading
from fluxflow_exp.run.folder import RunFolder, run_path
from fluxflow_exp.study.spec import Spec
from fluxflow_exp.sweep import jobs

SHOWN_KEYS = 3


@dataclass(frozen=True)
class Run:
    """A run that the study asks for: a job of its arm's sweep."""

    arm: str
    seed: int
    words: tuple[str, ...]  # overrides, but for the seed
    config_dir: str | None = field(default=None, compare=False)
    rate: str = field(default="", compare=False)  # the override by which it tries a learning rate

    @cached_property
    def values(self) -> dict[str, Any]:
        """Its resolved configuration. UserError: there is none."""
        config = copy.deepcopy(_composed(self.words, self.config_dir))
        config.seed = self.seed
        return resolve(config)

    @cached_property
    def launched(self) -> list[str]:
        """The overrides as Hydra hands them to the job, by which its folder is known."""
        parsed = OverridesParser.create().parse_overrides(as_text([*self.words, f"seed={self.seed}"]))
        found: list[str] = BasicSweeper.split_arguments(parsed, None)[0][0]
        return found

    @property
    def folder(self) -> RunFolder:
        """Where it is, or is to be: its sweep takes the folder that is there."""
        label = f"{self.rate} seed={self.seed}".strip()
        return RunFolder(run_path(self.values, jobs.job_folder(self.values, self.launched, label)))

    def entry(self) -> states.Entry:
        return states.inspect(self.folder, self.values)


@lru_cache(maxsize=256)
def _composed(words: tuple[str, ...], config_dir: str | None) -> DictConfig:
    """What all seeds have: to compose takes a while. UserError: all that is wrong with the words."""
    return composed(list(words), _resolvable, config_dir=config_dir)


def _resolvable(config: DictConfig) -> DictConfig:
    resolve(copy.deepcopy(config))  # with its errors
    return config


def words_of(spec: Spec, arm: str, *, changes: list[str], rate: float | None = None) -> tuple[str, ...]:
    """All overrides of the runs of `arm` but for the seed; `changes`: those that make it equal to the reference."""
    words = merged(merged(spec.base, spec.arms[arm]), changes)
    if rate is not None:
        assert spec.learning_rates
        words = merged(words, [f"{spec.learning_rates.key}={rate:g}"])
    return (*words, f"name={arm}", f"output_root={spec.folder}")


def unused(spec: Spec, known: dict[str, set[tuple[str, ...]]], seeds: set[int]) -> list[str]:
    """One line for what stands in the study's folder and does not belong to it (any more); nothing of it is used.

    `known`: the words that runs of each arm may have; `seeds`: those that are asked for.
    """
    found: list[str] = []
    for folder in sorted(path for path in spec.folder.glob("*") if path.is_dir()):
        there = lookup.below(folder)
        if not there:
            continue
        if folder.name not in known:
            found.append(f"{folder.name} is no arm of this study: {_counted(len(there))} not used")
            continue
        reasons = Counter(filter(None, (_reason(spec, each, known[folder.name], seeds) for each in there)))
        found += [f"{folder.name}: {_counted(count)} not used: {reason}" for reason, count in reasons.items()]
    return found


def _reason(spec: Spec, folder: RunFolder, known: set[tuple[str, ...]], seeds: set[int]) -> str | None:
    """Why a run does not belong to its arm; None: it does, or cannot be read, which its own state says."""
    if states.damage(folder) is not None:
        return None
    seed = int(folder.frozen()["seed"])
    candidates = [Run(folder.path.parent.name, seed, words, spec.config_dir) for words in sorted(known)]
    if any(jobs.digest(each.launched) == folder.path.name.rpartition("-")[2] for each in candidates):
        if seed in seeds:
            return None  # whether its configuration has changed since, its state says
        return f"seed {seed} is not asked for"
    differing = min((refusals.differences(folder, each.values) for each in candidates), key=len)
    named = leading(differing).items()
    keys = [f"{key}: {theirs!r} there, {mine!r} now" for key, (theirs, mine) in named if key != "seed"]
    return f"stale ({few(keys, SHOWN_KEYS, joint='; ') or 'other overrides'})"


def _counted(runs: int) -> str:
    return f"{runs} run{'s are' if runs > 1 else ' is'}"


def refuse_changed(runs: list[Run]) -> None:
    """UserError: a file of a run is damaged, or files that it is composed of have changed since it was launched."""
    problems = [
        f"{run.arm}, seed {run.seed}: {entry.state}: {entry.note}. resume=fresh moves such runs aside and trains anew"
        for run in runs
        if (entry := run.entry()).state in (states.STALE, states.DAMAGED) and run.values["resume"] != "fresh"
    ]
    if problems:
        raise UserError(*problems)
