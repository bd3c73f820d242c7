"""The runs of a comparison: found, grouped, and held against each other for whatever else differs between them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fluxflow_exp.compare import following as compare_following
from fluxflow_exp.compare.following import ABSENT, CHOICES, STEPS
from fluxflow_exp.errors import UserError, did_you_mean
from fluxflow_exp.run import states
from fluxflow_exp.run.folder import RunFolder, flatten

THERE = "(there)"
NAMED = 3  # runs that a message lists by name
SHOWN = 8  # keys that a message lists
# What changes neither what a run learns nor what its other metrics say: names, places, pictures, further metrics, and
# facts for the planner.
ASIDE = (
    "choices", "name", "output_root", "resume", "validate", "seed", "tracking", "checkpoint", "publish", "samples",
    "log_every",
    "health", "evaluation.metrics", "evaluation.raw", "cache.path", "hardware.slurm",
    "hardware.memory_gib", "hardware.bf16_tflops", "hardware.memory_bandwidth_gbs", "hardware.price_per_hour",
)  # fmt: skip


@dataclass
class Run:
    folder: RunFolder
    values: dict[str, Any]  # the frozen configuration
    flat: dict[str, Any]  # the same by dotted key
    record: dict[str, Any]
    group: str = ""

    @property
    def seed(self) -> int:
        return int(self.values["seed"])

    @property
    def name(self) -> str:
        return str(self.folder.path)

    @property
    def finished(self) -> bool:
        return self.folder.summary.exists() and set(self.values["stage"]["steps"]) <= set(self.record["steps"])


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


def find(outs: Iterable[Path]) -> list[Run]:
    """The runs at or below `outs`, each once; damaged ones are left out, and said. UserError: there are no others."""
    runs: dict[Path, Run] = {}
    empty, found = [], []
    for out in outs:
        # One that was moved aside counts where it is named itself.
        folders = [RunFolder(out)] if RunFolder(out).exists() else states.runs_below(out)
        if not folders:
            empty.append(str(out))
        found += folders
    if empty:
        raise UserError(f"there is no run in {', '.join(empty)}; name run folders, or folders of them (a sweep)")
    for folder in states.whole(found):
        values = folder.frozen()
        flat = {key: value for name in values for key, value in flatten(values[name], name)}
        runs.setdefault(folder.path.resolve(), Run(folder, values, flat, folder.read_record()))
    return list(runs.values())


def group(runs: list[Run], by: str) -> dict[str, list[Run]]:
    """Runs by the label of their value of `by`, in the order in which the values are met, each group by seed.

    UserError: there is no such key, or it does not make groups of which each has a seed once.
    """
    if by == "seed":
        raise UserError("--by seed: seeds are what is averaged over; name the key whose values are compared")
    known = list(dict.fromkeys(key.removeprefix(CHOICES) for run in runs for key in run.flat))
    if not any(by in run.flat for run in runs):
        inside = [key for key in known if key.startswith(f"{by}.")]
        if inside:
            more = f" and {len(inside) - SHOWN} more" if len(inside) > SHOWN else ""
            raise UserError(f"--by {by} is a section; name one key of it: {', '.join(inside[:SHOWN])}{more}")
        raise UserError(f"--by {by}: the runs have no such key{did_you_mean(by, known)}")
    for run in runs:
        run.group = label(by, run.flat.get(by, ABSENT))
    groups = {name: [run for run in runs if run.group == name] for name in dict.fromkeys(run.group for run in runs)}
    if len(groups) < 2:
        have = f"all {len(runs)} runs have" if len(runs) > 1 else "there is one run, with"
        raise UserError(f"--by {by}: {have} {next(iter(groups))}; two values make a comparison")
    twice = [line for name, members in groups.items() for line in _twice(name, members, by)]
    if twice:
        raise UserError(*twice)
    return {name: sorted(members, key=lambda run: run.seed) for name, members in groups.items()}


def key_of(runs: list[Run], by: str) -> str:
    """`by`, or the key that says which file of the config group `by` each run was composed of."""
    return f"{CHOICES}{by}" if all(f"{CHOICES}{by}" in run.flat for run in runs) else by


def label(by: str, value: Any) -> str:
    """What a group is called: a word is its own name, a number needs its key's."""
    return value if isinstance(value, str) else f"{by.rpartition('.')[2]}={_shown(value)}"


def differences(runs: list[Run], by: str) -> Found:
    """What differs between the runs beside `by`, what reads it, and the seed."""
    varying = {key: _by_value(runs, key) for key in dict.fromkeys(key for run in runs for key in run.flat)}
    varying = {key: values for key, values in varying.items() if len(values) > 1 and key != by and not _aside(key)}
    following = compare_following.following(runs, varying, by)
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


def _rank(unlike: Unlike) -> int:
    """What explains other differences comes first: steps, then the stage, then data."""
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


def apart(values: dict[str, list[str]]) -> str:
    """Values with the runs that have them; most runs, if they are many, are the others."""
    most = max(values, key=lambda value: len(values[value]))
    many = len(values[most]) > NAMED
    lines = [f"{value} in {listed(names)}" for value, names in values.items() if not (many and value == most)]
    return "; ".join([*lines, *([f"{most} in the {len(values[most])} others"] if many else [])])


def listed(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _twice(name: str, members: list[Run], by: str) -> list[str]:
    seeds = {run.seed: [other for other in members if other.seed == run.seed] for run in members}
    return [
        f"{_apart_in(runs, by)}{len(runs)} runs are {name} with seed={seed}: {listed([run.name for run in runs])}. "
        f"Leave {'one' if len(runs) == 2 else 'all but one'} out"
        for seed, runs in seeds.items()
        if len(runs) > 1
    ]


def _apart_in(runs: list[Run], by: str) -> str:
    """The first differences between runs that should be one, in words."""
    unlike = differences(runs, by).unlike
    more = f"; and {len(unlike) - NAMED} more" if len(unlike) > NAMED else ""
    return f"{'; '.join(str(each) for each in unlike[:NAMED])}{more}. So " if unlike else ""


def _aside(key: str) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in ASIDE)


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
    """Commits, changes since, and versions of packages."""
    packages = dict.fromkeys(name for run in runs for name in _made_with(run) if name != "machine")
    found = [
        Unlike("code", "commit (run.json)", _grouped(runs, lambda run: run.record["commit"])),
        Unlike("code", "changed code (run.json)", _grouped(runs, lambda run: run.record["changed_code"])),
        *(
            Unlike("code", f"{name} (run.json)", _grouped(runs, lambda run, name=name: _made_with(run).get(name)))
            for name in packages
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


def _made_with(run: Run) -> dict[str, str]:
    return run.record["made_with"] or {}


def _by_value(runs: list[Run], key: str) -> dict[str, list[str]]:
    return _grouped(runs, lambda run: run.flat.get(key, ABSENT))


def _grouped(runs: list[Run], read: Any) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for run in runs:
        values.setdefault(_shown(read(run)), []).append(run.name)
    return values


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
