"""The course of a study: from its file to its answer. The same call goes on after any kill."""

from __future__ import annotations

import statistics
from dataclasses import replace

from fluxflow_exp.errors import UserError
from fluxflow_exp.monitor.metrics import higher_is_better
from fluxflow_exp.run import states
from fluxflow_exp.study import cost, launch, measure, predictions, sentences
from fluxflow_exp.study.answer import LearningRate
from fluxflow_exp.study.arms import apart, check_all, measured_apart
from fluxflow_exp.study.boundary import FIRST
from fluxflow_exp.study.cost import ArmCost
from fluxflow_exp.study.kept import Kept
from fluxflow_exp.study.outcome import Runs
from fluxflow_exp.study.runs import Run, refuse_changed, unused, words_of
from fluxflow_exp.study.spec import Spec


class Course:
    """A study with what is known of it so far."""

    def __init__(self, spec: Spec, *, search: bool = True, trains: bool = True) -> None:
        """Check everything. `search`: arms that are to be made equal and are not yet are searched for.

        `trains`: runs are to begin now, so that devices are looked at.

        UserError: all that is wrong with the study.
        """
        from fluxflow_exp.study import matching

        self.spec, self.kept = spec, Kept(spec.folder)
        self.first = check_all(spec, {}, trains=trains)
        self.matches = matching.equal(spec, self.first, self.kept, only_kept=not search)
        self.changes = {arm: matching.overrides(found) for arm, found in self.matches.items()}
        if any(self.changes.values()):
            self.first = check_all(spec, self.changes, trains=trains)
        self.notes = [*matching.notes(self.matches), *measured_apart(spec, self.first)]
        self.unit = cost.unit_of(self.first[spec.reference].values)
        self.rates: dict[str, LearningRate] = {}
        self.failed: list[Run] = []
        self.stopped: str | None = None
        self.costs: dict[str, ArmCost] = {}

    def predict(self) -> None:
        """Work out what a run of each arm costs. UserError: the study does not fit its budget."""
        cost.check_runs(self.spec, self.counts())
        self.costs = predictions.made(self.first, self.kept)
        done = [each for arm in self.first for each in self._likely(arm) if each.entry().state == states.DONE]
        hours = cost.spent(self.spec, done)
        for arm in dict.fromkeys(run.arm for run in done):
            taken = statistics.fmean(hours[run] for run in done if run.arm == arm)
            self.costs[arm] = replace(self.costs[arm], hours=taken)
        print("\n".join([*apart(self.spec, self.first), *(f"Note: {each}" for each in self.notes)]), flush=True)
        print("\n".join(cost.said(self.spec, self.costs, self.counts(), self.unit)), flush=True)
        beside, sharing = len(launch.places(self.spec, list(self.first.values()))), self.spec.side_by_side
        if beside > 1:
            apiece = f", {sharing} on each GPU" if beside > sharing else ""
            print(f"{beside} runs at a time{', each on GPUs of its own' if sharing == 1 else apiece}", flush=True)
        if done:
            print(f"Done already, and left out: {len(done)} of them", flush=True)
        cost.check_budget(self.spec, self.costs, self.counts(), self.unit)
        cost.check_memory(self.spec, self.costs, self.first[self.spec.reference].values, self.unit)

    def recall(self) -> None:
        """Take the costs that an earlier call has worked out."""
        self.costs = predictions.known(self.first, self.kept)

    def _likely(self, arm: str) -> list[Run]:
        """Runs of `arm` that may be done already."""
        rates = self.spec.learning_rates
        if rates:
            return [run for run in self.trials() if run.arm == arm]
        return [self._run(arm, seed, None) for seed in self.spec.seeds or range(FIRST)]

    def counts(self) -> dict[str, int]:
        """Runs of each arm, those that choose its learning rate included; of `seeds: auto`, the fewest."""
        seeds = FIRST if self.spec.seeds is None else len(self.spec.seeds)
        rates = self.spec.learning_rates
        trials = len(rates.rates) * len(rates.seeds) if rates else 0
        return dict.fromkeys(self.spec.arms, seeds + trials)

    def trials(self) -> list[Run]:
        """The runs that choose each arm's learning rate."""
        rates = self.spec.learning_rates
        if rates is None:
            return []
        return [self._run(arm, seed, rate) for arm in self.spec.arms for rate in rates.rates for seed in rates.seeds]

    def runs(self, seeds: list[int], arms: list[str] | None = None) -> list[Run]:
        """The runs that answer; learning rates must have been chosen."""
        return [
            self._run(arm, seed, self.rates[arm].chosen if self.spec.learning_rates else None)
            for arm in arms or self.spec.arms
            for seed in seeds
            if arm in self.rates or not self.spec.learning_rates
        ]

    def failing(self, runs: list[Run]) -> set[str]:
        """Arms of which one of `runs` has failed, or all that were to choose a learning rate."""
        rateless = set(self.spec.arms) - set(self.rates) if self.spec.learning_rates else set()
        return rateless | {run.arm for run in runs if run in self.failed}

    def unused(self, seeds: list[int]) -> list[str]:
        """What stands in the folder and is not used."""
        rates = self.spec.learning_rates
        known = {
            arm: {words_of(self.spec, arm, changes=self.changes.get(arm, []), rate=rate) for rate in rates.rates}
            if rates
            else {words_of(self.spec, arm, changes=self.changes.get(arm, []))}
            for arm in self.spec.arms
        }
        return unused(self.spec, known, {*seeds, *(rates.seeds if rates else [])})

    def train(self, runs: list[Run], metrics: list[str]) -> list[Run]:
        """Train and measure `runs`; those that are done are returned, and the others are told."""
        refuse_changed(runs)
        failed = launch.train(self.spec, runs)
        self.failed += [run for run in failed if run not in self.failed]
        done = [run for run in runs if run.entry().state == states.DONE]
        measure.measure(self.spec, done, metrics)
        return done

    def choose_rates(self) -> None:
        """Let each arm choose its learning rate, by runs that judge no arm; one whose runs all fail has none.

        UserError: the reference has none.
        """
        rates = self.spec.learning_rates
        if rates is None:
            return
        done = self.train(self.trials(), [rates.metric])
        self.rates = self.chosen(done)
        for arm in (arm for arm in self.spec.arms if arm not in self.rates):
            said = f"arm {arm}: no run with any learning rate gave {rates.metric}: see their logs"
            if arm == self.spec.reference:
                raise UserError(said)
            print(f"Left out: {said}", flush=True)
        for arm, found in self.rates.items():
            tried = ", ".join(
                f"{rate}: {'failed' if value is None else f'{value:.4g}'}" for rate, value in found.tried.items()
            )
            print(f"Learning rate of {arm}: {found.chosen:g}, by {found.metric} ({tried})", flush=True)
        for line in sentences.edges(self.rates):
            print(f"Note: {line}", flush=True)

    def chosen(self, done: list[Run]) -> dict[str, LearningRate]:
        """Arm → its learning rate, by the trials that are `done`; an arm without one is left out."""
        rates = self.spec.learning_rates
        assert rates
        higher = bool(higher_is_better(rates.metric))
        found = {}
        for arm in self.spec.arms:
            values: dict[float, float | None] = {}
            for rate in rates.rates:
                mine = [run for run in done if run.words == self._run(arm, 0, rate).words]
                each = [value for run in mine if (value := measure.last(run, rates.metric)) is not None]
                values[rate] = statistics.fmean(each) if len(each) == len(rates.seeds) else None
            known = {rate: value for rate, value in values.items() if value is not None}
            if not known:
                continue
            best = (max if higher else min)(known, key=lambda rate: known[rate])
            named = f"seed{'s' if len(rates.seeds) > 1 else ''} {', '.join(map(str, rates.seeds))}"
            found[arm] = LearningRate(
                best, {f"{rate:g}": value for rate, value in values.items()}, rates.metric,
                f"the outcome's held-out images, in runs with {named}, which judge no arm",
            )  # fmt: skip
        return found

    def lost(self, runs: list[Run]) -> list[Run]:
        """Failed runs that the answer lacks: of `runs`, and of those that were to choose a rate for an arm without."""
        trials = [run for run in self.trials() if run.arm not in self.rates]
        return [run for run in [*trials, *runs] if run.entry().state == states.FAILED]

    def finished(self, runs: list[Run]) -> Runs:
        """Those of `runs` that are done, by arm and seed."""
        found: Runs = {}
        for run in runs:
            if run.entry().state == states.DONE:
                found.setdefault(run.arm, {})[run.seed] = measure.finished(run)
        return found

    def _run(self, arm: str, seed: int, rate: float | None) -> Run:
        words = words_of(self.spec, arm, changes=self.changes.get(arm, []), rate=rate)
        key = self.spec.learning_rates.key if self.spec.learning_rates else ""
        return Run(arm, seed, words, self.spec.config_dir, "" if rate is None else f"{key}={rate:g}")
