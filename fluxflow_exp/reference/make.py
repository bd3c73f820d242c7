"""Reference curves of run folders that differ in their seed alone."""

from collections.abc import Sequence
from typing import Any

from fluxflow_exp.errors import UserError
from fluxflow_exp.reference import alike, standing
from fluxflow_exp.reference.curves import FEWEST_RUNS, Facts, Point, Reference, StepCurves
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.identity import identity_differences
from fluxflow_exp.run.metric_log import Row, read_rows, row_every

MOST_POINTS = 24  # of a curve, further apart the later they are
VERSIONS = ("machine", "fluxflow_exp", "python", "torch")


def reference(folders: Sequence[RunFolder], *, of: str) -> Reference:
    """Curves of finished runs on the data that `of` names; reads config.yaml, run.json and graph/*.jsonl of each.

    UserError: they are too few, not finished, or differ in more than the seed.
    """
    if len(folders) < FEWEST_RUNS:
        raise UserError(f"a band needs at least {FEWEST_RUNS} runs of different seeds, not {len(folders)}")
    configs = [folder.frozen() for folder in folders]
    records = [folder.read_record() for folder in folders]
    _must_differ_in_seed_alone(folders, configs)
    steps = list(configs[0]["stage"]["steps"])
    for folder, record in zip(folders, records, strict=True):
        missing = [step for step in steps if step not in record["steps"]]
        if missing:
            raise UserError(f"{folder.path}: step {missing[0]} has not ended; the same command continues the run")
    made_with = records[0].get("made_with") or {}
    return Reference(
        of=of,
        model=configs[0]["model"]["name"],
        stage=configs[0]["stage"]["name"],
        seeds=tuple(config["seed"] for config in configs),
        made_with={key: made_with[key] for key in VERSIONS if key in made_with},
        steps={step: _step(step, folders, configs[0], records[0]) for step in steps},
    )


def _must_differ_in_seed_alone(folders: Sequence[RunFolder], configs: Sequence[dict[str, Any]]) -> None:
    seeds = [config["seed"] for config in configs]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"the runs have seeds {', '.join(map(str, seeds))}: each must have one of its own")
    for folder, config in zip(folders[1:], configs[1:], strict=True):
        differing = set(identity_differences(config, configs[0])) - {"seed"}
        if differing:
            raise UserError(f"{folder.path} differs from {folders[0].path} in more than its seed: {min(differing)}")


def _step(step: str, folders: Sequence[RunFolder], values: dict[str, Any], record: dict[str, Any]) -> StepCurves:
    facts = alike.facts(values, record, step)
    runs = [read_rows(folder.metrics(step)) for folder in folders]
    every = row_every(values["log_every"], record["planned"][step]["updates"])
    return StepCurves(**vars(facts), metrics=_metrics(runs, facts, every))


def _metrics(runs: Sequence[list[Row]], facts: Facts, log_every: int) -> dict[str, tuple[Point, ...]]:
    """Points of each judged metric, at updates at which all runs have it."""
    found: dict[str, list[Point]] = {}
    for kind in ("held_out", "train"):
        ends = [{row["global_step"]: i for i, row in enumerate(rows) if row["kind"] == kind} for rows in runs]
        common = sorted(set.intersection(*map(set, ends)))
        whole = [update for update in common if kind == "held_out" or update * standing.WINDOW >= log_every]
        for update in _spread(whole):
            until = [rows[: end[update] + 1] for rows, end in zip(runs, ends, strict=True)]
            rate = standing.rate_of(until[0], facts)
            measured = [standing.at(rows, log_every=log_every) for rows in until]
            for metric in set.intersection(*map(set, measured)):
                if rate is None or metric.startswith("val_") != (kind == "held_out"):
                    continue
                values = tuple(each[metric] for each in measured)
                found.setdefault(metric, []).append(Point(update, update * facts.batch_size, rate, values))
    return {metric: tuple(found[metric]) for metric in sorted(found)}


def _spread(updates: list[int]) -> list[int]:
    """At most MOST_POINTS of `updates`, the last one among them, each about the same factor after the one before."""
    if len(updates) <= MOST_POINTS:
        return updates
    first, last = updates[0], updates[-1]
    aims = [first * (last / first) ** (index / (MOST_POINTS - 1)) for index in range(MOST_POINTS)]
    return sorted({min(updates, key=lambda update: abs(update - aim)) for aim in aims})
