"""The outcomes of finished runs: in the rows of training, or measured afterwards by `fluxflow_exp.evaluate`."""

import shlex

from fluxflow_exp import evaluate, files
from fluxflow_exp.compare.curves import read
from fluxflow_exp.compare.metrics import logged
from fluxflow_exp.compare.runs import Run as Finished
from fluxflow_exp.compare.runs import find
from fluxflow_exp.errors import UserError
from fluxflow_exp.evaluation import record
from fluxflow_exp.study import children, evaluating, launch
from fluxflow_exp.study.arms import in_rows
from fluxflow_exp.study.children import Child
from fluxflow_exp.study.runs import Run
from fluxflow_exp.study.spec import Spec

STAMP = "study.txt"  # beside a run's evaluations: the options by which the study measured


def finished(run: Run) -> Finished:
    """A run that is done, as `fluxflow_exp.compare` reads it."""
    found: Finished = find([run.folder.path])[0]
    return found


def measure(spec: Spec, runs: list[Run], metrics: list[str]) -> None:
    """Measure what no row of `runs`, which are done, holds. UserError: something cannot be measured."""
    todo: list[Child] = []
    for run in runs:
        wanted = [metric for metric in metrics if not _in_rows_of(run, metric)]
        lacking = [metric for metric in metrics if in_rows(metric) and metric in wanted and "prompt" not in metric]
        if lacking:
            raise UserError(f"{run.folder.path} has no row of {', '.join(lacking)}: a longer run, or another outcome")
        words = _words(spec, run, wanted) if wanted else []
        if words:
            todo.append(Child(f"{run.arm} seed={run.seed}", ["python", "-m", "fluxflow_exp.evaluate", *words]))
    there = launch.places(spec, runs)
    if len(there) > 1 and len(todo) > 1:
        if any(children.run(todo, places=there, group=spec.name)):
            raise UserError("a run could not be measured: what is wrong is said above")
        return
    for name, words in todo:
        print(f"\n$ {shlex.join(words)}", flush=True)
        if evaluate.main(words[3:]):
            raise UserError(f"{name} could not be measured: what is wrong is said above")


def _in_rows_of(run: Run, metric: str) -> bool:
    return metric in logged(finished(run))


def _words(spec: Spec, run: Run, metrics: list[str]) -> list[str]:
    """What measures those of `metrics` that were not measured of these weights by these options; none: all were."""
    folder = run.folder.path / record.FOLDER
    path, stamp = folder / "final.json", folder / STAMP
    options = " ".join(spec.evaluate)
    if path.exists():
        same = stamp.exists() and stamp.read_text(encoding="utf-8") == options
        if not same:  # numbers measured in two ways are not to be held against each other
            path.rename(path.with_suffix(".before"))
    if path.exists() and files.read_json(path)["digest"] == files.digest(run.folder.weights / "final.safetensors"):
        known = record.read(path)
        metrics = [metric for metric in metrics if not record.select(known, metric)]
    if not metrics:
        return []
    folder.mkdir(exist_ok=True)
    files.write_text(stamp, options)
    names = evaluating.names(metrics)
    scales = list(dict.fromkeys(metric.partition("@")[2] for metric in metrics if "@" in metric))
    guidance = ["--guidance", *scales] if scales else []
    return [str(run.folder.path), "--metrics", *names, *guidance, *evaluating.acting(spec.evaluate, names)]


def last(run: Run, metric: str) -> float | None:
    """The last value of `metric` of a run that is done; None: there is none, or one was not finite."""
    try:
        return read(finished(run), metric, "images").values[-1]
    except UserError:
        return None
