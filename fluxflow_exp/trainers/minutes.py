"""Steps that were given minutes: whether these hold what a step does beside updates, and how many updates they hold."""

from __future__ import annotations

from dataclasses import replace

from fluxflow_exp.config.schema import RunConfig
from fluxflow_exp.data.protocols import DataSet
from fluxflow_exp.errors import UserError, plural
from fluxflow_exp.machine import clock
from fluxflow_exp.run import refusals, time_budget
from fluxflow_exp.run.time_budget import Costs, Share
from fluxflow_exp.step_length import Length
from fluxflow_exp.trainers import pace
from fluxflow_exp.trainers.context import RunContext


class Minutes:
    """The minutes of a run's steps; `stays`: its folder does, also if they are too few."""

    def __init__(self, config: RunConfig, run: RunContext, data: dict[str, DataSet], *, stays: bool) -> None:
        self.config, self.run, self.data, self.stays = config, run, data, stays
        self.costs: dict[str, Costs] = {}

    def hold(self, lengths: dict[str, Length], plan: str) -> None:
        """Before anything is trained, say the `plan`, and look whether the minutes hold it; `lengths` without minutes.

        UserError: a step takes more than its share, which would else be said only when those before it have been
        trained.
        """
        self.run.console.say("\n".join(filter(None, [plan, self._hold_all(lengths)])))
        first = next(iter(self.config.stage.steps))
        if time_budget.is_timed(self.config, first) and self._is_fresh():
            self.run.load_code(first)
            self.length_of(first, lengths[first], [])

    def _hold_all(self, lengths: dict[str, Length]) -> str:
        """What the steps take beside their updates, in words; "": nothing to say. UserError: more than their shares."""
        config, run = self.config, self.run
        timed = [name for name in config.stage.steps if time_budget.is_timed(config, name)]
        if timed in ([], list(config.stage.steps)[:1]) or not self._is_fresh():  # the first step is timed now anyway
            return ""
        run.console.say("Looking whether the minutes hold what each step does beside its updates …")
        least = {}
        for share in self._shares(dict.fromkeys(timed, 0.0)):
            name, seconds = share.step, max(share.seconds, 0.0)
            run.load_code(name)
            found = pace.ahead(config, name, run, seconds, length=lengths[name], data=self.data[name])
            self.costs[name], least[name] = found
            run.keep_code(name)  # also for the command with more minutes, should these be too few
            run.start_up.ends("pace")
        shares = self._shares(least)
        if any(share.lacks for share in shares):
            each = {name: max(costs.update.values()) for name, costs in self.costs.items() if costs.update}
            raise UserError(time_budget.too_short(config, shares, each, stays=self.stays))
        return time_budget.told(shares)

    def _is_fresh(self) -> bool:
        """Whether nothing of the run was trained or timed yet; the same on all ranks."""
        first = self.run.ranks.first
        return self.run.ranks.from_first(first and _has_not_begun(self.config, self.run))

    def _shares(self, least: dict[str, float]) -> list[Share]:
        """The same on all ranks."""
        found: list[Share] = []
        if self.run.ranks.first:
            self.run.folder.count_time()
            taken = self.run.folder.read_record()["wall_seconds"]
            found = time_budget.shares(self.config, least, taken)
        return self.run.ranks.from_first(found)

    def length_of(self, name: str, length: Length, earlier: list[str]) -> Length:
        """The length of a step that was given minutes: as the record has it, or measured now and entered there."""
        config, run = self.config, self.run
        known = run.ranks.from_first(run.folder.read_record().get("minutes", {}).get(name) if run.ranks.first else None)
        if known:
            return replace(length, updates=known["updates"])
        began = clock.now()

        def seconds_left() -> float:
            run.folder.count_time()
            begun = clock.now() - began
            taken = time_budget.spent(run.folder.read_record(), earlier, begun)
            return time_budget.seconds_left(config, name, run=taken, begun=begun)

        seconds = run.ranks.from_first(seconds_left() if run.ranks.first else 0.0)
        costs, data = self.costs.get(name), self.data[name]
        updates, each, least = pace.updates_within(
            config, name, run, seconds_left, length=length, data=data, earlier=earlier, known=costs
        )
        run.start_up.ends("pace")
        if updates < 1:
            left = run.ranks.from_first(seconds_left() if run.ranks.first else 0.0)
            share = time_budget.share_of(config, name, seconds, least + seconds - left)  # timing took the difference
            stays = self.stays or bool(earlier)
            raise UserError(time_budget.too_short(config, [share], {name: each}, stays=stays))
        if run.ranks.first:
            left = seconds_left()
            record = run.folder.read_record()
            record.setdefault("minutes", {})[name] = {"updates": updates, "seconds": round(seconds, 3)}
            record["planned"][name]["updates"] = updates
            run.folder.write_record(record)
            dollars = time_budget.dollars(left, config.hardware, run.ranks.count)
            price = "" if dollars is None else f" ({dollars:.2f} USD)"
            run.console.say(
                f"Step {name}: {updates} {plural(updates, 'update')} of {each:.3g} s each; with evaluation, pictures "
                f"and saves it ends at {time_budget.moment(left)}{price}"
            )
        return replace(length, updates=updates)


def _has_not_begun(config: RunConfig, run: RunContext) -> bool:
    record = run.folder.read_record()
    begun = refusals.progress(run.folder, list(config.stage.steps)).values()
    return not (record["steps"] or record.get("minutes") or any(begun))
