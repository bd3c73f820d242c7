"""The metric of a comparison: whether runs have it, and what was measured of it after training."""

from fluxflow_exp.compare.runs import Run, listed
from fluxflow_exp.errors import UserError, did_you_mean
from fluxflow_exp.evaluation import record
from fluxflow_exp.evaluation.measures import MEASURES
from fluxflow_exp.evaluation.record import Record
from fluxflow_exp.run.metric_log import read_rows


def check_metric(runs: list[Run], metric: str) -> None:
    """UserError: some run does not have the held-out metric."""
    there = {run.name: _metrics(run) for run in runs}
    without = [name for name, metrics in there.items() if metric not in metrics]
    if not without:
        return
    known = sorted({name for metrics in there.values() for name in metrics})
    if len(without) == len(runs):
        measured = _to_measure(runs, metric)
        raise UserError(
            f"--metric {metric}: no run has such a held-out metric"
            f"{f'. {measured}.' if measured else did_you_mean(metric, known) or '.'} "
            f"There are: {', '.join(known) or 'none at all'}"
        )
    raise UserError(
        *(
            f"--metric {metric}: {run.name} has no row of it{'' if run.finished else ', and is not finished'}; "
            f"its held-out metrics: {', '.join(sorted(there[run.name])) or 'none yet'}"
            f"{f'. {measured}' if (measured := _to_measure([run], metric)) else ''}"
            for run in runs
            if run.name in without
        )
    )


def evaluated(run: Run, metric: str) -> list[Record]:
    """Return the record of the metric, if there is one. UserError: the run was measured in several ways."""
    found = record.select(record.of_run(run.folder.path), metric)
    ways = [reason for each in found[1:] if (reason := record.comparable(found[0], each))]
    if ways:
        named = [name for name in record.names(found) if "@" in name]
        folder = run.folder.path / record.FOLDER
        choice = f"Name one: {', '.join(named)}" if len(named) > 1 else f"Remove {folder} and measure it in one way"
        raise UserError(f"{run.name}: {metric} was measured in several ways: {ways[0]}. {choice}")
    return found[-1:]


def check_evaluated(runs: list[Run], metric: str) -> None:
    """UserError: the runs' evaluations of the metric, where it comes from these, are not alike."""
    found = {run.name: evaluated(run, metric)[0] for run in runs if metric not in logged(run)}
    (first, one), *others = found.items() or [("", None)]
    unlike = [
        f"{metric} of {first} and of {name}: {reason}" for name, other in others if (reason := _unlike(one, other))
    ]
    if unlike:
        raise UserError(f"{listed(unlike)}. Measure all alike: python -m fluxflow_exp.evaluate RUN, same options")


def logged(run: Run) -> set[str]:
    """Names of the held-out metrics in the rows of a run."""
    return {
        name
        for step in run.values["stage"]["steps"]
        for row in read_rows(run.folder.metrics(step))
        if row["kind"] == "held_out"
        for name in row["metrics"]
    }


def _to_measure(runs: list[Run], metric: str) -> str:
    """Say how `runs` come by a metric of fluxflow_exp.evaluate; "": it is none."""
    name, _, guidance = metric.partition("@")
    if name not in MEASURES:
        return ""
    command = f"python -m fluxflow_exp.evaluate RUN --metrics {name}{f' --guidance {guidance}' if guidance else ''}"
    if MEASURES[name].of == "reconstructions" or all(_trains_flow(run) for run in runs):
        return f"First measure it: {command}"
    of = "samples" if MEASURES[name].of == "samples" else "a flow transformer"
    return f"{name} is of {of}: it takes runs with a flow step, each measured first: {command}"


def _trains_flow(run: Run) -> bool:
    return any("flow" in step.get("optimizers", {}) for step in run.values["stage"]["steps"].values())


def _unlike(one: Record | None, other: Record | None) -> str | None:
    return record.comparable(one, other) if one and other else None


def _metrics(run: Run) -> set[str]:
    """Names of logged held-out metrics, and of evaluations: bare, and with the guidance of samples."""
    records = record.of_run(run.folder.path)
    return logged(run) | {*record.names(records)} | {each.metric for each in records if each.ema}
