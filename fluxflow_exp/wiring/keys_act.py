"""Whether every configured key acts: with another value an update must leave other weights, bit for bit.

A key of a data set must change what is read, one of a schedule the learning rates, any other one the weights or their
averages after updates of each kind. A loss that is only logged, or an argument that a constructor takes and never
uses, changes nothing and is found.
"""

import copy
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.progress import track

from fluxflow_exp.config.compose import instantiate
from fluxflow_exp.config.published import locate
from fluxflow_exp.config.schema import RunConfig, Step
from fluxflow_exp.monitor.finite import NonFiniteError
from fluxflow_exp.run.identity import flatten
from fluxflow_exp.step_plan import idle_players, needed_parts
from fluxflow_exp.wiring import exempt_keys
from fluxflow_exp.wiring.check import ACTS, LATER, Check
from fluxflow_exp.wiring.other_values import at, hints_of, others, replaced
from fluxflow_exp.wiring.toy_trainer import ToyTrainer, updates_of
from fluxflow_exp.wiring.weights_move import curve

EVALUATIONS = 20  # of a schedule that follows a metric, which improves at each; then as many without
IMPROVEMENT = 0.9993
HORIZON = 200  # updates of a schedule, at most
LONGER = 100  # times: a step in which even what is due seldom is due
# "The size of tensor a (8) must match …", "expected input[…] to have 4 channels": torch has no type for these.
SIZES = re.compile(r"\b(sizes?|shapes?|channels?)\b", re.IGNORECASE)


class Effects:
    def __init__(self, toy: ToyTrainer) -> None:
        self.toy, self.values = toy, toy.values
        self.before = list(toy.run(toy.config))
        self.seen: str | None = None  # what the data give

    def checks(self) -> list[Check]:
        """One for each key of the step, its parts and its data that is set to something and should act."""
        step = self.toy.config.stage.steps[self.toy.step]
        still = tuple(
            f"stage.steps.{self.toy.step}.{group}.{player}."
            for player in idle_players(step, self.toy.config.model)
            for group in ("optimizers", "schedulers")
        )
        keys = [
            (key, value)
            for key, value in keys_of(self.values, self.toy.config, self.toy.step)
            if not exempt_keys.reason(key) and not key.startswith(still)
        ]
        shown = track(keys, f"Step {self.toy.step}", transient=True, disable=not sys.stdout.isatty())
        return [check for key, value in shown for check in self.check(key, value)]

    def check(self, key: str, value: Any) -> list[Check]:
        """Whether the key acts, as one check; none if it is off or stands at a default that acts elsewhere."""
        name, tried, refused = f"{key}{ACTS}", [], []
        for other in others(value, hint(self.values, key)):
            tried.append(other)
            try:
                acts = self._differs(key, replaced(self.toy.config, key, other))
            except ValueError as error:  # written for the user: the value is refused
                refused.append(f"{other!r} is refused: {' '.join(str(error).split())}")
                continue
            except NonFiniteError as error:  # which the key's own value does not give
                return [Check(self.toy.step, name, True, f"{value!r} → {other!r}: {first_line(error)}")]
            except Exception as error:  # of any code that is configured
                if misfit(error):
                    return [Check(self.toy.step, name, True, f"{other!r} does not fit: {first_line(error)}")]
                return [Check(self.toy.step, name, False, f"{value!r} → {other!r} raises {raised(error)}")]
            if acts:
                return [Check(self.toy.step, name, True, f"{value!r} → {other!r}")]
        if not tried or self._default(key, value):
            return []
        if len(refused) == len(tried):
            return [Check(self.toy.step, name, True, refused[0])]
        if exempt_keys.exception(key):
            return [Check(self.toy.step, name, True, f"not here: {exempt_keys.exception(key)}")]
        nothing = f"{value!r} → {', '.join(map(repr, tried))}: nothing changes"
        if self._acts_later(key, value):
            note = f"{nothing} in the {self.toy.length.updates} updates that this step has"
            return [Check(self.toy.step, f"{name}{LATER}", True, note)]
        return [Check(self.toy.step, name, False, nothing)]

    def _acts_later(self, key: str, value: Any) -> bool:
        """Whether the key acts in updates of a kind that the step would have if it were longer.

        R1 is due every 16 updates, say, and a short trial has none of these.
        """
        longer = self.toy.longer(LONGER)
        return longer.kinds != self.toy.kinds and all(each.passed for each in Effects(longer).check(key, value))

    def _differs(self, key: str, changed: RunConfig) -> bool:
        where = f"stage.steps.{self.toy.step}"
        if key.startswith(("data.", f"{where}.data.")) or key == f"{where}.data":
            if self.seen is None:
                self.seen = self.toy.look(self.toy.config)
            return self.toy.look(changed) != self.seen
        if key.startswith(f"{where}.schedulers."):
            player = key.removeprefix(f"{where}.schedulers.").partition(".")[0]
            return self._rates(changed, player) != self._rates(self.toy.config, player)
        if any(a != b for a, b in zip_longest(self.before, self.toy.run(changed))):
            return True
        # The other value may act in updates that are nothing special without it.
        more = sorted({*self.toy.updates, *updates_of(self.toy.build(changed))})
        if more == self.toy.updates:
            return False
        return any(a != b for a, b in zip_longest(*(self.toy.run(c, more) for c in (self.toy.config, changed))))

    def _rates(self, config: RunConfig, player: str) -> list[float]:
        """The rates of a whole step, by updates and by a metric that hardly improves."""
        node = config.stage.steps[self.toy.step].schedulers[player]
        horizon = min(self.toy.length.updates, HORIZON)
        return curve(node, 1.0, horizon, horizon) + observed(node)

    def _default(self, key: str, value: Any) -> bool:
        """Whether a key of the frame stands where it stands when nobody sets it."""
        field = key.removeprefix(f"stage.steps.{self.toy.step}.")
        return any(
            each.name == field and value == (each.default if each.default is not MISSING else None)
            for each in fields(Step)
        )


def observed(node: dict[str, Any]) -> list[float]:
    """The rates after each of so many evaluations."""
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = instantiate(node)(optimizer, updates=HORIZON)
    found = []
    for evaluation in range(2 * EVALUATIONS):
        schedule.observe(IMPROVEMENT ** min(evaluation, EVALUATIONS))
        found.append(float(optimizer.param_groups[0]["lr"]))
    return found


def keys_of(values: dict[str, Any], config: RunConfig, step: str) -> list[tuple[str, Any]]:
    """Dotted keys, with values, of all that step `step` is made of."""
    where = f"stage.steps.{step}"
    parts = needed_parts(config.stage.steps[step])
    found = [("seed", values["seed"]), *flatten(values["stage"]["steps"][step], where)]
    for part in parts:
        found += flatten(values["model"][part], f"model.{part}")
    picked = values["stage"]["steps"][step]["data"]
    if isinstance(picked, dict) and "_target_" in picked:
        return found
    if "datasets" not in values["data"]:
        return found + flatten(values["data"], "data")
    names = [values["data"]["default"]] if picked is None else [picked] if isinstance(picked, str) else list(picked)
    return found + [pair for n in names for pair in flatten(values["data"]["datasets"][n], f"data.datasets.{n}")]


def shared(config: Any, resolve: Callable[[Any], dict[str, Any]], named: set[str]) -> list[Check]:
    """Keys that others are interpolated from (`model.activation`, `optimizer.lr`): they must change some of those.

    `config` is the composed configuration, `named` the keys that the user has set; other ones may be out of use.
    """
    from omegaconf import OmegaConf

    before = dict(flatten(resolve(config)))
    found = []
    for key, value in _sources(config):
        changed: list[str] = []
        for other in others(value):
            copied = copy.deepcopy(config)
            OmegaConf.update(copied, key, other)
            after = dict(flatten(resolve(copied)))
            changed = sorted(k for k in {*before, *after} if before.get(k) != after.get(k) and k != key)
            if changed:
                break
        if changed or key in named:
            note = (
                f"through {', '.join(changed[:2])}{' …' if len(changed) > 2 else ''}" if changed else "nothing reads it"
            )
            found.append(Check("", f"{key}{ACTS}", bool(changed), note))
    return found


def _sources(config: Any) -> Iterator[tuple[str, Any]]:
    """Keys outside steps, parts and data that should act, with values that are no interpolations themselves."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    for section in ("model", "optimizer", "scheduler"):
        for key, value in flatten(plain[section], section):
            inside = section == "model" and key.count(".") > 1
            if not inside and not exempt_keys.reason(key) and not str(value).startswith("${"):
                yield key, value
    yield "stage.spade", plain["stage"]["spade"]


def hint(values: dict[str, Any], key: str) -> Any:
    """The type that the nearest `_target_` above gives the argument `key`; None where there is none."""
    path = key.split(".")
    node = at(values, path[:-1])
    if not isinstance(node, dict) or "_target_" not in node:
        return None
    return hints_of(locate(node["_target_"])).get(path[-1])


def misfit(error: Exception) -> bool:
    """Whether it is what tensor operations say where one size was changed and others were not."""
    return type(error) is RuntimeError and bool(SIZES.search(str(error)))


def raised(error: Exception) -> str:
    """An error with the place that it comes from."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {first_line(error)} ({Path(place.filename).name}, line {place.lineno})"


def first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:100]
