"""The groups of a comparison: runs by their value of one key, each seed once."""

from typing import Any

from fluxflow_exp.compare.differences import differences, shown
from fluxflow_exp.compare.runs import CHOICES, NAMED, SHOWN, Run, listed
from fluxflow_exp.errors import UserError, did_you_mean, few
from fluxflow_exp.run.identity import ABSENT


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
            raise UserError(f"--by {by} is a section; name one key of it: {few(inside, SHOWN)}")
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
    """Name a group: a word is its own name, a number needs its key's."""
    return value if isinstance(value, str) else f"{by.rpartition('.')[2]}={shown(value)}"


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
    return f"{few(list(map(str, unlike)), NAMED, joint='; ')}. So " if unlike else ""
