"""Whatever differs between runs beside the compared key, and the keys that differ because that one does."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from fluxflow_exp.compare.runs import CHOICES, NAMED, Run, listed
from fluxflow_exp.config.schema import Evaluation
from fluxflow_exp.run.identity import ABSENT, below, flatten

THERE = "(there)"
STEPS = "stage.steps."
# Keys that read another one under another name; all others read their like (model.expander.activation, …).
READS = {"lr": "learning_rate"}
# What changes neither what a run learns nor what its other metrics say: names, places, pictures, further metrics, and
# facts for the planner.
ASIDE = (
    "choices", "name", "output_root", "resume", "validate", "seed", "tracking", "checkpoint", "publish", "samples",
    "log_every",
    "health", "evaluation.metrics", "evaluation.reference", "evaluation.raw", "cache.path", "hardware.slurm",
    "hardware.memory_gib", "hardware.bf16_tflops", "hardware.memory_bandwidth_gbs", "hardware.price_per_hour",
)  # fmt: skip

# What runs did that began before there was such a key.
DEFAULTS = dict(flatten({"evaluation": asdict(Evaluation())}))


@dataclass
class Unlike:
    """A key that has several values where there should be one."""

    kind: str  # data | code | config
    key: str
    values: dict[str, list[str]]  # value → names of runs

    def __str__(self) -> str:
        return f"{self.key}: {apart(self.values)}"


@dataclass
class Section(Unlike):
    """Keys that only some runs have, as one: those of steps, or below `key`."""

    def __str__(self) -> str:
        there, lacking = self.values[THERE], self.values[ABSENT]
        verb = "are" if self.key.startswith("steps ") else "is"
        return f"{self.key} {verb} " + (
            f"not in {listed(lacking)}" if len(lacking) < len(there) else f"only in {listed(there)}"
        )


@dataclass
class Found:
    """Differences between runs: those that are in the way, and keys that follow the compared one."""

    unlike: list[Unlike] = field(default_factory=list)
    following: list[str] = field(default_factory=list)
    machines: Unlike | None = None


def differences(runs: list[Run], by: str) -> Found:
    """Return the differences between the runs, but for `by`, what reads it, and the seed."""
    varying = {key: _by_value(runs, key) for key in dict.fromkeys(key for run in runs for key in run.flat)}
    varying = {
        key: values for key, values in varying.items() if len(values) > 1 and key != by and not below(key, ASIDE)
    }
    following = _following(runs, varying, by)
    varying = {key: values for key, values in varying.items() if key not in following}
    sections, within = _sections(runs, varying)
    unlike: list[Unlike] = [*sections]
    unlike += [
        Unlike("data" if _is_data(key) else "config", key, values)
        for key, values in varying.items()
        if key not in within
    ]
    machines = Unlike("config", "machine (run.json)", _grouped(runs, lambda run: _made_with(run).get("machine")))
    unlike += _data(runs) + _code(runs) + _upstream(runs)
    unlike.sort(key=_rank)
    return Found(unlike, following, machines if len(machines.values) > 1 else None)


def apart(values: dict[str, list[str]]) -> str:
    """Values with the runs that have them; most runs, if they are many, are the others."""
    most = max(values, key=lambda value: len(values[value]))
    many = len(values[most]) > NAMED
    lines = [f"{value} in {listed(names)}" for value, names in values.items() if not (many and value == most)]
    return "; ".join([*lines, *([f"{most} in the {len(values[most])} others"] if many else [])])


def _following(runs: list[Run], keys: Iterable[str], by: str) -> list[str]:
    """Return those of `keys` that differ because `by` does: parts of what it chooses, and what reads it."""
    keys = list(keys)
    sources = {by, *(key for key in keys if _belongs(runs, key, by))}
    return [key for key in keys if key in sources or any(_copies(runs, key, source) for source in sources)]


def _belongs(runs: list[Run], key: str, by: str) -> bool:
    """Whether `by` is a choice (a config group, or a name as model.name) and `key` is part of what is chosen by it."""
    section, _, last = by.rpartition(".")
    if not by.startswith(CHOICES):
        return last == "name" and bool(section) and key.startswith(f"{section}.")
    group = by.removeprefix(CHOICES).replace("/", ".")
    if key.startswith(f"{group}."):
        return True
    parts = key.split(".")  # stage.steps.STEP.optimizers.PLAYER.lr: a player's own, which follows the run's
    if not key.startswith(STEPS) or parts[3] != f"{group}s" or len(parts) < 6:
        return False
    followed = ".".join([group, *parts[5:]])
    return all(
        run.flat.get(key, ABSENT) == run.flat.get(followed, ABSENT)
        for run in runs
        if parts[2] in run.values["stage"]["steps"]
    )


def _copies(runs: list[Run], key: str, source: str) -> bool:
    """Whether `key` has the value of `source` in every run, and the name that a key which reads it has."""
    mine, theirs = key.rpartition(".")[2], source.rpartition(".")[2]
    return READS.get(mine, mine) in (theirs, READS.get(theirs, theirs)) and all(
        run.flat.get(key, ABSENT) == run.flat.get(source, ABSENT) for run in runs
    )


def _rank(unlike: Unlike) -> int:
    """Order differences so that those that explain others come first: steps, then the stage, then data."""
    firsts = ("step ", "steps ", "stage.name")
    return 0 if unlike.key.startswith(firsts) else 1 if unlike.kind == "data" else 2


def _sections(runs: list[Run], keys: Iterable[str]) -> tuple[list[Section], set[str]]:
    """The outermost sections that some runs do not have at all, and which of `keys` lie in these."""
    inside = {run.name: {key[:at] for key in run.flat for at, sign in enumerate(key) if sign == "."} for run in runs}
    found: dict[tuple[str, ...], dict[str, None]] = {}  # runs that lack them → sections
    within = set()
    for key in keys:
        lacking = tuple(run.name for run in runs if key not in run.flat)
        parts = key.split(".")
        for section in (".".join(parts[:length]) for length in range(1, len(parts))) if lacking else ():
            if not any(section in inside[name] for name in lacking):
                found.setdefault(lacking, {})[section] = None
                within.add(key)
                break
    made = []
    for lacking, sections in found.items():
        values = {THERE: [run.name for run in runs if run.name not in lacking], ABSENT: list(lacking)}
        steps = [each.rpartition(".")[2] for each in sections if each.startswith(STEPS) and each.count(".") == 2]
        named = [f"step{'s' if len(steps) > 1 else ''} {' and '.join(steps)}"] if steps else []
        others = [each for each in sections if not (each.startswith(STEPS) and each.count(".") == 2)]
        made += [Section("data" if _is_data(each) else "config", each, values) for each in [*named, *others]]
    return made, within


def _is_data(key: str) -> bool:
    parts = key.split(".")
    return parts[0] == "data" or (parts[:2] == ["stage", "steps"] and parts[3:4] == ["data"])


def _data(runs: list[Run]) -> list[Unlike]:
    """Steps whose files were not the same; runs that recorded none of it are not asked."""
    recorded = [run for run in runs if run.record.get("data")]
    steps = dict.fromkeys(step for run in recorded for step in run.record["data"])
    having = {step: [run for run in recorded if step in run.values["stage"]["steps"]] for step in steps}
    found = [
        Unlike("data", f"data of step {step} (run.json)", _grouped(those, _data_of(step)))
        for step, those in having.items()
    ]
    return [each for each in found if len(each.values) > 1]


def _data_of(step: str) -> Any:
    return lambda run: run.record["data"].get(step, ABSENT)


def _code(runs: list[Run]) -> list[Unlike]:
    """Commits, changes since, versions of packages, and files of the user's own classes."""
    packages = dict.fromkeys(name for run in runs for name in _made_with(run) if name != "machine")
    found = [
        Unlike("code", "commit (run.json)", _grouped(runs, lambda run: run.record["commit"])),
        Unlike("code", "changed code (run.json)", _grouped(runs, lambda run: run.record["changed_code"])),
        *(
            Unlike("code", f"{name} (run.json)", _grouped(runs, lambda run, name=name: _made_with(run).get(name)))
            for name in packages
        ),
        *(
            Unlike(
                "code", f"code of {name} (run.json)", _grouped([r for r in runs if name in _own(r)], _versions(name))
            )
            for name in dict.fromkeys(name for run in runs for name in _own(run))
        ),
    ]
    return [each for each in found if len(each.values) > 1]


def _upstream(runs: list[Run]) -> list[Unlike]:
    """Weights that runs started from: the same file may have held others at another time."""
    files = dict.fromkeys(name for run in runs for name in run.record["upstream"])
    found = [
        Unlike("config", f"weights in {name}", values)
        for name in files
        # Where a run has another file, the configuration says so.
        if len(values := _grouped([r for r in runs if name in r.record["upstream"]], _digest(name))) > 1
    ]
    return found


def _digest(name: str) -> Any:
    # A run that went on with others has both.
    return lambda run: ", then ".join(each[:16] for each in run.record["upstream"][name].split(", then "))


def _own(run: Run) -> dict[str, list[dict[str, str]]]:
    """Class of the user's own → versions of its file; empty, too, for a run that recorded none."""
    found: dict[str, list[dict[str, str]]] = run.record.get("own_code", {})
    return found


def _versions(name: str) -> Any:
    # A run that went on with other code has both.
    return lambda run: ", then ".join(each["sha256"][:16] for each in _own(run)[name])


def _made_with(run: Run) -> dict[str, str]:
    return run.record["made_with"] or {}


def _by_value(runs: list[Run], key: str) -> dict[str, list[str]]:
    return _grouped(runs, lambda run: run.flat.get(key, DEFAULTS.get(key, ABSENT)))


def _grouped(runs: list[Run], read: Any) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for run in runs:
        values.setdefault(shown(read(run)), []).append(run.name)
    return values


def shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
