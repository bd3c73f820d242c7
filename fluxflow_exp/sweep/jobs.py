"""The jobs of a sweep: composed, checked and frozen before any of them runs."""

import hashlib
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from fluxflow_exp.config.compose import chosen, resolve
from fluxflow_exp.config.override_words import why
from fluxflow_exp.config.overrides import Failure
from fluxflow_exp.console import fail
from fluxflow_exp.errors import UserError
from fluxflow_exp.preflight import check
from fluxflow_exp.run import frozen, mirror, opening, refusals, states
from fluxflow_exp.run.folder import Mirror, RunFolder, run_path
from fluxflow_exp.run.lock import LOOK_SECONDS

# What may change when the same job is launched again, and so does not name its folder.
ASIDE = {"hardware", "hydra", "tracking", "checkpoint", "cache", "name", "output_root", "resume", "validate", "sweep"}


@dataclass
class Job:
    label: str
    overrides: list[str]
    values: dict[str, Any]
    folder: RunFolder
    entry: states.Entry

    @property
    def runs(self) -> bool:
        return self.entry.state in states.TO_RUN


class Sweep:
    """Jobs with what had become of them before; `to_run` are those that are left to do."""

    def __init__(self, jobs: list[Job], folder: Path) -> None:
        self.jobs, self.folder = jobs, folder
        self.to_run = [job for job in jobs if job.runs]

    @classmethod
    def prepare(
        cls, context: HydraContext, config: DictConfig, overrides: Sequence[Sequence[str]], *, here: bool
    ) -> "Sweep":
        """Compose and check every job, then freeze those that will run. SystemExit: something is wrong with one.

        `here`: they will run on this machine.
        """
        labels = states.labels([list(each) for each in overrides])
        composed = [_compose(context, config, list(each)) for each in overrides]
        wrong = _problems(labels, composed, here=here) or _sharing_problems(composed, overrides)
        folder = Path(str(config.hydra.sweep.dir))
        if wrong:
            leave_nothing(folder)
            fail(wrong)
            sys.exit(2)
        values = [each for each in composed if isinstance(each, dict)]
        if values[0]["validate"]:
            _print_plans(labels, values, [list(each) for each in overrides])
            leave_nothing(folder)
            sys.exit(0)
        jobs = [_job(label, list(each), own) for label, each, own in zip(labels, overrides, values, strict=True)]
        sweep = cls(jobs, folder)
        sweep._announce()
        return sweep

    def finish(self) -> None:
        """Say what became of the jobs. SystemExit: not all are done."""
        if any(entry.state != states.DONE for entry in self.tell()):
            sys.exit(1)

    def tell(self) -> list[states.Entry]:
        """Print what has become of each job."""
        before = {job.label: job.entry for job in self.jobs}
        rows = [
            (job.label, job.entry if job.entry.state == states.STALE else states.inspect(job.folder))
            for job in self.jobs
        ]
        for label, entry in rows:
            if entry.state == states.DONE and before[label].state == states.DONE:
                entry.note = f"before; {entry.note}".rstrip("; ")
        print(f"\n{self.folder}\n{states.table(rows)}", flush=True)
        if any(entry.state == states.STALE for _, entry in rows):
            print("  Stale jobs were not run: resume=fresh moves them aside and runs them again")
        if any(entry.state == states.DAMAGED for _, entry in rows):
            print(
                "  Damaged jobs were not run: bring the file back, or resume=fresh moves them aside and runs them again"
            )
        return [entry for _, entry in rows]

    def _announce(self) -> None:
        print(f"{states.count([job.entry for job in self.jobs])}; {len(self.to_run)} to run", flush=True)


def digest(overrides: list[str]) -> str:
    """8 hex digits for what tells a job from another one."""
    joined = ",".join(sorted(identifying(overrides)))
    return hashlib.sha256(joined.encode()).hexdigest()[:8]


def job_folder(values: dict[str, Any], overrides: list[str], label: str = "") -> str:
    """The name of a job's folder: the one that it has, found by its digest, or `label` with the digest."""
    key = digest(overrides)
    there = sorted(p.name for p in run_path(values).glob(f"*-{key}") if p.is_dir())
    readable = ",".join(identifying(label.split())) or "job"
    return there[0] if there else f"{re.sub(r'[^A-Za-z0-9.,=_-]+', '-', readable)[:120].strip('-')}-{key}"


def identifying(overrides: list[str]) -> list[str]:
    """Those of the overrides that make a job another one."""
    return [o for o in overrides if re.split(r"[.@/=]", o.lstrip("+~"))[0] not in ASIDE]


def _compose(context: HydraContext, config: DictConfig, overrides: list[str]) -> dict[str, Any] | str:
    """A job's resolved configuration, or what is wrong with it."""
    try:
        job = context.config_loader.load_sweep_config(config, overrides)
        choices = chosen(job.hydra.runtime.choices)
        with open_dict(job):
            del job["hydra"]
        return {**resolve(job), "choices": choices}
    except (*Failure, OmegaConfBaseException) as error:
        return why(error)
    except UserError as error:
        return "; ".join(error.args)


def _problems(labels: list[str], composed: list[dict[str, Any] | str], *, here: bool) -> list[str]:
    """One line a problem; one that all jobs have is said once."""
    found = [[each] if isinstance(each, str) else _of_job(each, here=here) for each in composed]
    common = [line for line in found[0] if all(line in lines for lines in found)]
    single = [
        f"{label}: {line}" for label, lines in zip(labels, found, strict=True) for line in lines if line not in common
    ]
    good = [each for each in composed if isinstance(each, dict)]
    if any(each["hardware"] != good[0]["hardware"] for each in good):
        single.append(
            "hardware cannot be swept: one launcher serves all jobs. Launch once for each; a value with a comma in it "
            "is quoted twice: 'hardware.slurm.partition=\"gpu,long\"'"
        )
    return [*common, *single]


def _sharing_problems(composed: list[dict[str, Any] | str], overrides: Sequence[Sequence[str]]) -> list[str]:
    """A single run in whose folder jobs would come to lie."""
    found = [
        line
        for values, given in zip(composed, overrides, strict=True)
        if isinstance(values, dict)
        for line in refusals.sharing_problems(values, swept=job_folder(values, list(given)))
    ]
    return list(dict.fromkeys(found))


def _of_job(values: dict[str, Any], *, here: bool) -> list[str]:
    return check.problems(values, here=here and not values["validate"])


def _job(label: str, overrides: list[str], values: dict[str, Any]) -> Job:
    """A job with what has become of it; one that is to run is held to the configuration of this moment."""
    name = job_folder(values, overrides, label)
    folder = RunFolder(run_path(values, name), mirror=Mirror.of(values, name))
    while not folder.try_lock():
        entry = states.inspect(folder, values)
        if entry.state == states.RUNNING:
            return Job(label, overrides, values, folder, entry)
        time.sleep(LOOK_SECONDS)  # somebody looks at it, or is about to make it
    try:
        entry = _bring_back(folder, values, label) or states.inspect(folder, values)
        if entry.state in (states.STALE, states.DAMAGED) and values["resume"] == "fresh":
            print(f"{label}: the {entry.state} run was moved to {folder.move_aside()}")
            entry = states.Entry(states.NEW)
        if entry.state == states.DONE and refusals.extends(folder, values):
            entry = states.Entry(states.INTERRUPTED, "to be extended")
        job = Job(label, overrides, values, folder, entry)
        if job.runs:
            _freeze(job)
        return job
    finally:
        folder.unlock()


def _bring_back(folder: RunFolder, values: dict[str, Any], label: str) -> states.Entry | None:
    """Bring a job back from its mirror; what it is if the mirror has another one of its name."""
    try:
        for line in mirror.bring_back(folder, values):
            print(f"{label}: {line}")
    except UserError as error:
        return states.Entry(states.NEW if values["resume"] == "fresh" else states.STALE, " ".join(str(error).split()))
    return None


def _freeze(job: Job) -> None:
    """Hold the job to the configuration of this moment, whatever is edited before it starts or starts again."""
    # A job that starts again must not move itself aside; that it may go on with changed data holds.
    values = {**job.values, "resume": "auto" if job.values["resume"] == "fresh" else job.values["resume"]}
    if not job.folder.exists():
        opening.create(job.folder, values, job.overrides)
        return
    if refusals.extends(job.folder, job.values):
        opening.extend(job.folder, job.folder.read_record(), values, job.overrides)
    job.folder.freeze(values)
    job.folder.failure.unlink(missing_ok=True)


def launched(values: dict[str, Any], overrides: list[str]) -> tuple[dict[str, Any], str, list[str]]:
    """A job's configuration as it was launched, its folder's name, and the keys that would be different now.

    It names nothing that the command does not, and writes where the command says. UserError: it does name more.
    """
    name = job_folder(values, overrides)
    folder = RunFolder(run_path(values, name))
    then = folder.frozen()
    frozen.framed(then, folder.config)
    frozen.check(then, folder.config, way=", and the command that launches this job does not name it")
    changed = sorted(key for key in {*then, *values} - {"resume", "choices"} if then.get(key) != values.get(key))
    return {**then, **_places(then, values)}, name, changed


def _places(then: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return the keys that say where the job writes."""
    return {
        "name": values["name"],
        "output_root": values["output_root"],
        "checkpoint": {**then.get("checkpoint", {}), "mirror": values["checkpoint"]["mirror"]},
        "cache": {**then.get("cache", {}), "path": values["cache"]["path"]},
    }


def note_failure(values: dict[str, Any], name: str, error: Exception) -> None:
    """Leave the reason in the job's folder, if it failed before it had the folder."""
    folder = RunFolder(run_path(values, name))
    if not folder.failure.exists() and not folder.in_use():
        folder.record_failure(str(error) or type(error).__name__, log=_schedulers_log())


def _schedulers_log() -> str | None:
    """Return the file that submitit writes this process's output to; None outside of its jobs."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return None
    import submitit

    return str(submitit.JobEnvironment().paths.stderr)


def _print_plans(labels: list[str], values: list[dict[str, Any]], overrides: list[list[str]]) -> None:
    """Say what each job would do. SystemExit: one would be refused."""
    from fluxflow_exp import pipeline

    wrong = []
    for label, each, given in zip(labels, values, overrides, strict=True):
        print(f"\n== {label}")
        try:
            pipeline.run(each, swept=job_folder(each, given, label))
        except UserError as error:
            wrong.append(f"{label}: {error}")
    if wrong:
        fail(wrong)
        sys.exit(2)


def leave_nothing(folder: Path) -> None:
    """Take away what Hydra has written for a sweep that does not run."""
    (folder / "multirun.yaml").unlink(missing_ok=True)
    for each in (folder, *folder.parents):
        if each == Path() or not each.is_dir() or any(each.iterdir()):
            return
        each.rmdir()
