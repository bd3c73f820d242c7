"""The values of a study's file, each checked by itself."""

import re
from dataclasses import dataclass
from typing import Any

from fluxflow_exp.errors import did_you_mean

EQUAL = ("nothing", "parameters", "flops", "memory", "time")
WHERE = ("here", "slurm", "slurm_local")
AUTO = "auto"
BUDGET = ("gpu_hours", "runs")
RATES = ("rates", "metric", "seeds", "key")
TRIAL_SEED = 1000  # of the runs that choose a learning rate, where the file names none
TAKEN = ("pictures",)  # folders beside those of the arms
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Rates:
    """Learning rates that each arm may choose from, by the best mean of `metric` over `seeds`, which judge no arm."""

    rates: list[float]
    metric: str
    seeds: list[int]
    key: str = "optimizer.lr"  # that a rate is given to


def checked(raw: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """The fields of a Spec; what is wrong goes to `problems`, but for keys that are missing."""
    outcome = _texts(raw.get("outcome") or [], "outcome", problems)
    budget = raw.get("budget") or {}
    if not isinstance(budget, dict):
        problems.append(f"budget: gpu_hours: … and/or runs: … are wanted, not {budget!r}")
        budget = {}
    problems += [f"budget: there is no key {key!r}{did_you_mean(key, BUDGET)}" for key in budget if key not in BUDGET]
    for key, allowed in (("equal", EQUAL), ("where", WHERE)):
        if raw.get(key, allowed[0]) not in allowed:
            problems.append(f"{key} is one of {', '.join(allowed)}, not {raw[key]!r}")
    seeds = _seeds(raw.get("seeds", 3), problems)
    return {
        "question": " ".join(str(raw.get("question")).split()),
        "arms": {} if raw.get("arms") is None else _arms(raw["arms"], problems),
        "outcome": outcome,
        "equal": raw.get("equal", EQUAL[0]),
        "where": raw.get("where", WHERE[0]),
        "seeds": seeds,
        "side_by_side": _whole(raw.get("side_by_side"), "side_by_side", problems) or 1,
        "gpu_hours": _positive(budget.get("gpu_hours"), "budget.gpu_hours", problems),
        "runs": _whole(budget.get("runs"), "budget.runs", problems),
        "smallest_difference": _positive(raw.get("smallest_difference"), "smallest_difference", problems),
        "learning_rates": _rates(raw.get("learning_rates"), outcome, seeds, problems),
        "evaluate": tuple(_texts(raw.get("evaluate") or [], "evaluate", problems)),
    }


def _arms(raw: Any, problems: list[str]) -> dict[str, list[str]]:
    if not isinstance(raw, dict) or len(raw) < 2:
        problems.append(
            "arms: two or more are wanted, each a name with its list of overrides; the first is the reference"
        )
        return {}
    found = {}
    for name, words in raw.items():
        if isinstance(name, bool):
            read = "on and yes as true" if name else "off and no as false"
            problems.append(f"arms: YAML reads {read}: put such a name in quotes")
        elif not WORD.fullmatch(str(name)) or name in TAKEN:
            problems.append(
                f"arms: {name!r}: letters, digits, dot, dash and underscore make a name, but for {TAKEN[0]}"
            )
        found[str(name)] = words_of(words or [], f"arms.{name}", problems)
    sets = {name: sorted(words) for name, words in found.items()}
    names = list(sets)
    problems += [
        f"arms: {one} and {other} are the same"
        for index, one in enumerate(names)
        for other in names[index + 1 :]
        if sets[one] == sets[other]
    ]
    return found


def words_of(raw: Any, where: str, problems: list[str]) -> list[str]:
    """A list of overrides."""
    if isinstance(raw, str):
        raw = raw.split()
    if not isinstance(raw, list) or not all(isinstance(word, str) for word in raw):
        problems.append(f"{where}: a list of overrides such as model.activation=silu is wanted")
        return []
    keys = [word.partition("=")[0].lstrip("+") for word in raw]
    problems += [f"{where}: {key} stands {keys.count(key)} times" for key in dict.fromkeys(keys) if keys.count(key) > 1]
    problems += [
        f"{where}: {word!r} is no override (KEY=VALUE, +KEY=VALUE or ~KEY)"
        for word in raw
        if "=" not in word and not word.startswith("~")
    ]
    return list(raw)


def _texts(raw: Any, where: str, problems: list[str]) -> list[str]:
    raw = raw.split() if isinstance(raw, str) else raw
    if not isinstance(raw, list) or not all(isinstance(each, str | int | float) for each in raw):
        problems.append(f"{where}: a list of names is wanted, not {raw!r}")
        return []
    if len(set(raw)) < len(raw) and where != "evaluate":
        problems.append(f"{where}: a name stands twice")
    return [str(each) for each in raw]


def _seeds(raw: Any, problems: list[str]) -> list[int] | None:
    if raw == AUTO:
        return None
    if isinstance(raw, int) and not isinstance(raw, bool) and raw > 0:
        return list(range(raw))
    good = isinstance(raw, list) and all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in raw)
    if not good or not raw or len(set(raw)) < len(raw):
        problems.append(f"seeds: a number of them, a list of different ones, or auto is wanted, not {raw!r}")
        return [0]
    return list(raw)


def _rates(raw: Any, outcome: list[str], seeds: list[int] | None, problems: list[str]) -> Rates | None:
    if raw is None:
        return None
    node = raw if isinstance(raw, dict) else {"rates": raw}
    problems += [
        f"learning_rates: there is no key {key!r}{did_you_mean(key, RATES)}" for key in node if key not in RATES
    ]
    rates = node.get("rates")
    if not isinstance(rates, list) or len(rates) < 2 or None in rates:
        problems.append(f"learning_rates: a list of two rates or more is wanted, as [1e-3, 2e-3], not {rates!r}")
        rates = []
    numbers = [_positive(each, "learning_rates", problems) for each in rates]
    if len(set(numbers)) < len(numbers):
        problems.append("learning_rates: a rate stands twice")
    chosen = _seeds(node.get("seeds", [TRIAL_SEED]), problems) or [TRIAL_SEED]
    shared = sorted(set(chosen) & set(seeds or []))
    if shared:
        problems.append(
            f"learning_rates.seeds: {', '.join(map(str, shared))} judge the arms as well: choose others, such as "
            f"[{TRIAL_SEED}]"
        )
    metric = str(node.get("metric", outcome[0] if outcome else ""))
    found = [each for each in numbers if each]
    return Rates(found, metric, chosen, str(node.get("key", Rates.key))) if found else None


def _positive(raw: Any, where: str, problems: list[str]) -> float | None:
    if raw is None:
        return None
    try:
        value = float(raw) if not isinstance(raw, bool) else 0.0  # YAML reads 1e-3 as a word
    except (TypeError, ValueError):
        value = 0.0
    if not 0 < value < float("inf"):
        problems.append(f"{where}: a number above 0 is wanted, not {raw!r}")
        return None
    return value


def _whole(raw: Any, where: str, problems: list[str]) -> int | None:
    if raw is None or (isinstance(raw, int) and not isinstance(raw, bool) and raw > 0):
        return raw
    problems.append(f"{where}: a whole number above 0 is wanted, not {raw!r}")
    return None
