"""Time in the place of epochs: how many updates fit into the minutes that a step, or a whole run, was given.

The number is worked out once, before a step's first update, and kept in run.json: every continuation has it, so that a
run of so many minutes is to the bit the run of so many updates. `trainers/pace.py` measures what it is worked out from.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from fluxflow_exp.errors import UserError, plural
from fluxflow_exp.machine import clock

if TYPE_CHECKING:
    from fluxflow_exp.config.schema import Evaluation, Hardware, RunConfig, Samples
    from fluxflow_exp.run.save_interval import SaveClock
    from fluxflow_exp.step_length import Length

Kind = tuple[str, ...]  # of an update: trainers/updates.py


# One field for each thing that takes time.
@dataclass(frozen=True)
class Costs:
    """Seconds of what a step does."""

    update: dict[Kind, float]  # one, with the wait for its batch
    first_evaluation: float  # with what is loaded for it
    evaluation: float
    last_evaluation: float  # at the step's end
    pictures: float
    save: float
    ending: float  # from the last save to the end of the step, or of the run

    def of_update(self, shares: dict[Kind, float]) -> float:
        """The mean of an update, of each kind `shares` of them; a kind that was not measured takes the longest."""
        longest = max(self.update.values())
        return sum(share * self.update.get(kind, longest) for kind, share in shares.items())

    def of_step(
        self, update: float, length: Length, samples: Samples, evaluation: Evaluation, saves: SaveClock
    ) -> float:
        """Seconds of a step of `length.updates` updates of `update` seconds each."""
        evaluations = length.times(evaluation.every_epochs) - 1  # before the last
        found = length.updates * update + self.ending + self.save
        if evaluation.every_epochs is not None:
            found += min(evaluations, 1) * self.first_evaluation + max(evaluations - 1, 0) * self.evaluation
            found += self.last_evaluation
        minutes, times = saves.minutes(), 0
        if saves.every_updates:
            times = length.updates // saves.every_updates
        elif minutes is not None:
            times = int(found / 60 / minutes)
        drawn = length.times(samples.every_epochs)
        drawn += length.updates // samples.every_updates if samples.every_updates else 0
        drawn += times // samples.samples_per_checkpoint if samples.samples_per_checkpoint else 0
        return found + times * self.save + drawn * self.pictures


def most(seconds: float, cost: Callable[[int], float]) -> int:
    """The most updates whose `cost`, which grows with them, is no more than `seconds`; 0: not even one."""
    low, high = 0, 1
    while cost(high) <= seconds:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= seconds else (low, middle)
    return low


def dollars(seconds: float, hardware: Hardware, ranks: int) -> float | None:
    """What so long costs in US dollars; None: the price is not known."""
    return None if hardware.price_per_hour is None else seconds / 3600 * hardware.price_per_hour * ranks


def is_timed(config: RunConfig, step: str) -> bool:
    return config.minutes is not None or config.stage.steps[step].minutes is not None


def seconds_left(config: RunConfig, step: str, *, run: float, begun: float) -> float:
    """What step `step` may still take: `begun` seconds ago it began, and the run has taken `run` seconds so far.

    Of the time that a run has left each step gets its share, as the n_epochs of those that are not done say.
    """
    own = config.stage.steps[step].minutes
    if own is not None:
        return 60 * own - begun
    assert config.minutes is not None
    return (60 * config.minutes - run) * _part(config, step)


def _part(config: RunConfig, step: str) -> float:
    """The share of `step` in what is left when it begins of the minutes of a run."""
    names = list(config.stage.steps)
    left = [config.stage.steps[name].n_epochs for name in names[names.index(step) :]]
    return left[0] / sum(left)


@dataclass(frozen=True)
class Share:
    """The time that a step gets, and what it takes of it beside all but one of its updates."""

    step: str
    seconds: float
    least: float
    part: float | None = None  # of the run's minutes; None: the step has minutes of its own
    taken: float = 0.0  # seconds of the run before, which it shares with no step that is left

    @property
    def lacks(self) -> bool:
        return self.seconds < self.least


def shares(config: RunConfig, least: dict[str, float], taken: float) -> list[Share]:
    """The shares of the steps that take at least so long, in a run that has taken `taken` seconds until now."""
    found = []
    whole = sum(step.n_epochs for step in config.stage.steps.values())
    for name, each in least.items():
        own, epochs = config.stage.steps[name].minutes, config.stage.steps[name].n_epochs
        if own is not None:
            found.append(Share(name, 60 * own, each))
        else:
            assert config.minutes is not None
            part = epochs / whole
            found.append(Share(name, (60 * config.minutes - taken) * part, each, part, taken))
    return found


def share_of(config: RunConfig, step: str, seconds: float, least: float) -> Share:
    """The share of a step that begins now, to which `seconds_left` gives `seconds`."""
    if config.stage.steps[step].minutes is not None:
        return Share(step, seconds, least)
    assert config.minutes is not None
    part = _part(config, step)
    return Share(step, seconds, least, part, 60 * config.minutes - seconds / part)


def told(found: list[Share]) -> str:
    """What is left for updates, in a line."""
    said = ", ".join(f"{clock.shown(each.least)} of {each.step}'s {clock.shown(each.seconds)}" for each in found)
    return f"  Minutes: timing, evaluation, pictures and saves take at least {said}; the rest is for updates and caches"


def too_short(config: RunConfig, found: list[Share], updates: dict[str, float], *, stays: bool = False) -> str:
    """Which steps have not even time for one update, and what would do.

    `updates`: seconds of one, of the steps for which that is known; `stays`: the run's folder does.
    """
    lacking, steps = [each for each in found if each.lacks], list(config.stage.steps)
    lines = []
    for each in lacking:
        one = f"one update of {updates[each.step]:.3g} s" if each.step in updates else "one update"
        gets, takes = clock.shown(max(each.seconds, 0)), clock.shown(each.least)
        lines.append(
            f"    {each.step} gets {gets}, and takes {takes} with {one}, timing, evaluation, pictures and saves"
        )
    if config.minutes is None:
        keys = {each: f"stage.steps.{each.step}.minutes" for each in lacking}
        short = " and ".join(f"{key}={config.stage.steps[each.step].minutes:g}" for each, key in keys.items())
        words = " ".join(f"{key}={_enough(each.least)}" for each, key in keys.items())
        last = all(each.step == steps[-1] for each in lacking)
        how = "  Ask for {}{} or more{}".format(
            "resume=extend " if stays and last else "",
            words,
            ", under another name=… or with resume=fresh" if stays and not last else "",
        )
        return "\n".join([f"{short} {'is' if len(lacking) == 1 else 'are'} too short:", *lines, how])
    taken = found[0].taken
    needed = taken + max(each.least / each.part for each in found if each.part)
    whom = "all steps" if len(found) > 1 else f"step {found[0].step}"
    since = "it took to begin" if found[0].step == steps[0] else "were before it"
    head = f"minutes={config.minutes:g} is too short for {whom}, after the {clock.shown(taken)} that {since}:"
    share = ", share it otherwise (stage.steps.STEP.n_epochs)" if len(found) > 1 else ""
    extend = "resume=extend " if stays else ""
    how = f"  Ask for {extend}minutes={_enough(needed)} or more{share}, or leave out evaluation and pictures"
    return "\n".join([head, *lines, how])


def _enough(seconds: float) -> str:
    """Minutes, with a quarter more for updates, rounded up to two digits."""
    minutes = 1.25 * seconds / 60
    digits = 1 - math.floor(math.log10(minutes))
    return f"{math.ceil(minutes * 10**digits) / 10**digits:g}"


def total(config: RunConfig, lengths: dict[str, Length], ranks: int, *, taken: float = 0.0) -> str:
    """The length of a run, and when it ends and what it costs if that is known before it begins.

    `taken`: seconds since its command was given, which count.
    """
    minutes = [asked(config, name) for name in lengths]
    given = sum(filter(None, minutes))
    counted = sum(length.updates for length, each in zip(lengths.values(), minutes, strict=True) if each is None)
    if not given:
        return f"{counted} {plural(counted, 'update')}"
    money = dollars(60 * given, config.hardware, ranks)
    said = f"{given:.4g} min" + ("" if money is None else f", {money:.2f} USD")
    if counted:
        return f"{counted} updates, and {said}"
    return f"{said}; begun now, it ends at {moment(60 * given - taken)}"


def spent(record: dict[str, Any], earlier: list[str], begun: float) -> float:
    """Seconds of a run whose present step, after those `earlier`, began so long ago.

    Once it was interrupted, what it would have taken undisturbed: what is lost comes on top of the minutes, and no
    step gets fewer updates for it.
    """
    if not record["restarts"]:
        return float(record["wall_seconds"])
    done = record["steps"]
    known = {name: each for name, each in record.get("minutes", {}).items() if "ended_by" not in done.get(name, {})}
    return begun + sum(float((known if name in known else done)[name]["seconds"]) for name in earlier)


def asked(config: RunConfig, step: str) -> float | None:
    """The minutes of a step, in a run that has begun just now; None: it was given none."""
    own = config.stage.steps[step].minutes
    if own is not None or config.minutes is None:
        return own
    return config.minutes * config.stage.steps[step].n_epochs / sum(s.n_epochs for s in config.stage.steps.values())


def fixed(record: dict[str, Any], values: dict[str, Any], lengths: dict[str, Length]) -> dict[str, Length]:
    """`lengths` with the numbers of updates that a run's record holds for steps that were given minutes."""
    known = record.get("minutes", {})
    return {
        name: replace(each, updates=known[name]["updates"])
        if name in known and _minutes(values, name) is not None
        else each
        for name, each in lengths.items()
    }


def is_open(record: dict[str, Any], values: dict[str, Any], step: str) -> bool:
    """Whether `step` was given minutes, and how many updates that is has not been measured yet."""
    return _minutes(values, step) is not None and step not in record.get("minutes", {})


def settled(values: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run of so many minutes as that of a run of as many updates as its record says."""
    known = record.get("minutes", {})
    if not any(_minutes(values, name) is not None and name in known for name in values["stage"]["steps"]):
        return values
    found = copy.deepcopy(values)
    for name, step in found["stage"]["steps"].items():
        if name in known and _minutes(values, name) is not None:
            step.update(minutes=None, n_epochs=known[name]["updates"], max_updates=known[name]["updates"])
    found["minutes"] = None
    return found


def stretch(record: dict[str, Any], values: dict[str, Any], before: dict[str, Any]) -> None:
    """Give the last step of a run, which had the configuration `before`, the updates of its new minutes, in `record`.

    They take as long as those did that it has. UserError: it has begun without minutes, and is not finished.
    """
    name = list(values["stage"]["steps"])[-1]
    known, entry = record.setdefault("minutes", {}), record["steps"].get(name)
    new, old, had = _minutes(values, name), _minutes(before, name), known.pop(name, None)
    if not known:
        del record["minutes"]
    if new is None or (had is None and entry is None):
        return
    if had is not None and old is not None:
        taken, updates, seconds = had["seconds"], had["updates"], had["seconds"] + 60 * (new - old)
    else:
        assert entry is not None
        taken, updates = entry["seconds"], entry["updates"]
        run_wide = values["stage"]["steps"][name].get("minutes") is None
        seconds = 60 * new - (record["wall_seconds"] - taken if run_wide else 0.0)
    count = int(updates * seconds / taken) if taken else 0
    if count < 1:
        raise UserError(f"step {name} has taken longer than that already: ask for more minutes")
    record.setdefault("minutes", {})[name] = {"updates": count, "seconds": round(seconds, 3)}


def _minutes(values: dict[str, Any], step: str) -> float | None:
    """What the step was given, or the whole run."""
    own: float | None = values["stage"]["steps"][step].get("minutes")
    return own if own is not None else values.get("minutes")


def moment(seconds: float) -> str:
    """The time of day, here, in so many seconds."""
    return (datetime.now().astimezone() + timedelta(seconds=seconds)).strftime("%H:%M:%S")
