"""Launchers of `-m`: all jobs are checked before the first one starts, finished ones are left out, and a table says
what became of each.

`hydra/launcher=in_process` (the default) trains one after the other here; `slurm` and `slurm_local` hand each job to
submitit. Hydra looks for launchers in one namespace only; `register` puts these there.
"""

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import DictConfig

from fluxflow_exp import files
from fluxflow_exp.console import fail
from fluxflow_exp.errors import few
from fluxflow_exp.machine import slurm
from fluxflow_exp.run import states
from fluxflow_exp.sweep.jobs import Job, Sweep, leave_nothing

NAMESPACE = "hydra_plugins.fluxflow_exp"
AUTO_EXECUTOR = ("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name")
LOOK_SECONDS = 15.0
SHOWN = 4  # labels of jobs in a line


class InProcess(BasicLauncher):
    """One job after the other, in this process."""

    config: DictConfig
    hydra_context: HydraContext

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        sweep = Sweep.prepare(self.hydra_context, self.config, job_overrides, here=True)
        returned: Sequence[JobReturn] = []
        if sweep.to_run:
            try:
                returned = super().launch([job.overrides for job in sweep.to_run], initial_job_idx)
            except SystemExit:  # a signal: the job at hand has saved, and the sweep stops
                sweep.tell()
                raise
        sweep.finish()
        return returned


class _Submitit(BaseSubmititLauncher):  # type: ignore[misc]
    config: DictConfig
    hydra_context: HydraContext

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from submitit.core.utils import FailedJobError

        lacking = self._lacking()
        if lacking and not self.config.validate:
            leave_nothing(Path(str(self.config.hydra.sweep.dir)))
            fail([lacking])
            sys.exit(2)
        if lacking:
            print(f"Note: {lacking}")
        sweep = Sweep.prepare(self.hydra_context, self.config, job_overrides, here=False)
        if sweep.to_run:
            try:
                submitted = self._submit(sweep.to_run, initial_job_idx)
            except FailedJobError as error:  # what sbatch has refused
                fail([f"nothing was submitted: {str(error).strip().splitlines()[-1]}"])
                sys.exit(2)
            try:
                self._wait(sweep.to_run, submitted)
            except KeyboardInterrupt:
                print(f"The jobs go on. What becomes of them:\n  python -m fluxflow_exp.status {sweep.folder}")
                raise SystemExit(130) from None
        sweep.finish()
        return []

    def __call__(self, *arguments: Any) -> JobReturn:
        """The job itself, in its own process; it ends by an exception if the training does, and so not well."""
        returned: JobReturn = super().__call__(*arguments)
        if returned.status is JobStatus.FAILED:
            sys.excepthook = lambda *told: None  # the log has it
        returned.return_value  # noqa: B018 (raises what the training has raised)
        return returned

    def _submit(self, jobs: list[Job], first: int) -> list[Any]:
        import submitit  # a second to import, and most commands do without

        params = {**self.params, **self._derived(jobs[0].values["hardware"])}
        own = {**self._how(), "max_num_timeout": params.pop("max_num_timeout", None)}
        executor = submitit.AutoExecutor(
            folder=params.pop("submitit_folder"),
            cluster=self._EXECUTOR,
            **{f"{self._EXECUTOR}_{key}": value for key, value in own.items() if value is not None},
        )
        named = {k if k in AUTO_EXECUTOR else f"{self._EXECUTOR}_{k}": v for k, v in params.items() if v is not None}
        executor.update_parameters(**named)
        arguments = [
            (job.overrides, "hydra.sweep.dir", first + i, f"job_id_for_{first + i}", Singleton.get_state())
            for i, job in enumerate(jobs)
        ]
        submitted = executor.map_array(self, *zip(*arguments, strict=True))
        for job, handle in zip(jobs, submitted, strict=True):
            files.write_json(job.folder.submitted, {"launcher": self._EXECUTOR, "job": handle.job_id})
        print(f"Submitted {len(jobs)} job{'s' if len(jobs) > 1 else ''}: {', '.join(h.job_id for h in submitted)}")
        return list(submitted)

    def _wait(self, jobs: list[Job], submitted: list[Any]) -> None:
        """Until every job has ended; meanwhile a line whenever the scheduler has something new to say of one."""
        waiting = {handle.job_id: (job, handle) for job, handle in zip(jobs, submitted, strict=True)}
        seen: dict[str, slurm.JobState] = {}
        looked = 0.0
        while waiting:
            before, look = seen, time.monotonic() - looked > LOOK_SECONDS
            if look:
                looked = time.monotonic()
                seen = {number: self._state(handle) for number, (_, handle) in waiting.items()}
            for number, (job, handle) in list(waiting.items()):
                # A result may be late on a shared disk: a job without one has ended when two looks say so.
                gone = look and number in before and before[number].ended and seen[number].ended
                if gone or handle.paths.result_pickle.exists():
                    del waiting[number]
                    _note_end(job, handle, seen.get(number))
                    entry = states.inspect(job.folder)
                    print(f"{job.label}: {entry.state} {entry.note}".rstrip(), flush=True)
            _tell({job.label: seen[n] for n, (job, _) in waiting.items() if seen[n] != before.get(n)} if look else {})
            time.sleep(1)

    def _state(self, handle: Any) -> slurm.JobState:
        """Ask the scheduler about a job."""
        raise NotImplementedError

    def _how(self) -> dict[str, Any]:
        """Return the arguments of submitit's executor."""
        return {}

    def _derived(self, hardware: dict[str, Any]) -> dict[str, Any]:
        """Return the values that the configuration leaves to be worked out."""
        return {}

    def _lacking(self) -> str | None:
        """Say why this launcher cannot work here; None: it can."""
        return None


class Slurm(_Submitit):
    """Each job is a SLURM job; `hardware.slurm` says what it asks for."""

    _EXECUTOR = "slurm"

    def _derived(self, hardware: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.params.get("cpus_per_task") is None:
            found["cpus_per_task"] = 1 + hardware["num_workers"]
        if self.params.get("gres") is None and hardware["device"] != "cpu":
            found["gres"] = f"gpu:{hardware['devices']}"
        return found

    def __call__(self, *arguments: Any) -> JobReturn:
        import submitit

        job = submitit.JobEnvironment()
        slurm.listen(job._usr_sig(), first=job.global_rank == 0)
        return super().__call__(*arguments)

    def _how(self) -> dict[str, Any]:
        return {"python": slurm.patient()}

    def _state(self, handle: Any) -> slurm.JobState:
        return slurm.job_state(handle.job_id) or slurm.GONE

    def _lacking(self) -> str | None:
        why = slurm.lacking()
        return why and (
            f"hydra/launcher=slurm: {why}. Launch it on a machine of the cluster; without SLURM: "
            "hydra/launcher=slurm_local, or none"
        )


class SlurmLocal(_Submitit):
    """The same road without SLURM: submitit starts each job as a process here."""

    _EXECUTOR = "local"

    def _state(self, handle: Any) -> slurm.JobState:
        return slurm.JobState(slurm.GONE.state, handle.state) if handle.done() else slurm.JobState("RUNNING")


def register() -> None:
    """Let Hydra find these launchers."""
    for launcher in (InProcess, Slurm, SlurmLocal):
        Plugins.instance().class_name_to_class[f"{NAMESPACE}.{launcher.__name__}"] = launcher


def _note_end(job: Job, handle: Any, state: slurm.JobState | None) -> None:
    """No scheduler has the job any more; what ended it without a word of its own is written into its folder."""
    folder = job.folder
    outcome, said = "error", f"the job has ended: {_end(state or slurm.GONE)}"
    if handle.paths.result_pickle.exists():
        outcome, said = handle.task(0)._get_outcome_and_result()
    if outcome == "error" and not (folder.failure.exists() or folder.summary.exists()):
        folder.record_failure(_last_words(said), log=str(handle.paths.stderr))
    folder.submitted.unlink(missing_ok=True)


def _last_words(trace: str) -> str:
    """The exception that a traceback ends with, on one line."""
    lines = trace.strip().splitlines()
    begins = [index for index, line in enumerate(lines) if re.match(r"[\w.]+: ", line)]
    return " ".join(" ".join(lines[begins[-1] if begins else -1 :]).split())


def _end(state: slurm.JobState) -> str:
    return state.state + (f" ({state.reason})" if state.reason else "")


def _tell(changed: dict[str, slurm.JobState]) -> None:
    """Say what the scheduler has to say of jobs, which are known by their labels; one line for those that are alike."""
    for state in dict.fromkeys(changed.values()):
        labels = [label for label in changed if changed[label] == state and not state.ended]
        if labels:
            print(f"{few(labels, SHOWN)}: {state}", flush=True)
