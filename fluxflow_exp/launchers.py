"""How `-m` runs its jobs: all are checked before the first one starts, finished ones are left out, and a table says
what became of each.

`hydra/launcher=in_process` (the default) trains one after the other here; `slurm` and `slurm_local` hand each job to
submitit. Hydra looks for launchers in one namespace only; `register` puts these there.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import DictConfig

from fluxflow_exp import files, ledger
from fluxflow_exp.console import fail
from fluxflow_exp.sweep import Job, Sweep, leave_nothing

NAMESPACE = "hydra_plugins.fluxflow_exp"
AUTO_EXECUTOR = ("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name")
LOOK_SECONDS = 15.0


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

        if not self.config.validate:
            self._check()
        sweep = Sweep.prepare(self.hydra_context, self.config, job_overrides, here=False)
        if sweep.to_run:
            try:
                submitted = self._submit(sweep.to_run, initial_job_idx)
            except FailedJobError as error:  # what sbatch has refused
                fail([f"nothing was submitted: {str(error).strip().splitlines()[-1]}"])
                sys.exit(2)
            try:
                _wait(sweep, submitted)
            except KeyboardInterrupt:
                print(f"The jobs go on. What becomes of them:\n  python -m fluxflow_exp.status {sweep.folder}")
                raise SystemExit(130) from None
        sweep.finish()
        return []

    def _submit(self, jobs: list[Job], first: int) -> list[Any]:
        import submitit  # a second to import, and most commands do without

        params = {**self.params, **self._derived(jobs[0].values["hardware"])}
        timeouts, folder = params.pop("max_num_timeout", None), params.pop("submitit_folder")
        own = {f"{self._EXECUTOR}_max_num_timeout": timeouts} if timeouts is not None else {}
        executor = submitit.AutoExecutor(folder=folder, cluster=self._EXECUTOR, **own)
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

    def _derived(self, hardware: dict[str, Any]) -> dict[str, Any]:
        """What the configuration leaves to be worked out."""
        return {}

    def _check(self) -> None:
        """SystemExit: this launcher cannot work here."""


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

    def _check(self) -> None:
        if shutil.which("sbatch") is None:
            leave_nothing(Path(str(self.config.hydra.sweep.dir)))
            fail(["hydra/launcher=slurm needs sbatch, which is not here; without SLURM: hydra/launcher=slurm_local"])
            sys.exit(2)


class SlurmLocal(_Submitit):
    """The same road without SLURM: submitit starts each job as a process here."""

    _EXECUTOR = "local"


def register() -> None:
    """Let Hydra find these launchers."""
    for launcher in (InProcess, Slurm, SlurmLocal):
        Plugins.instance().class_name_to_class[f"{NAMESPACE}.{launcher.__name__}"] = launcher


def _wait(sweep: Sweep, submitted: list[Any]) -> None:
    """Until every job has ended. What ends one without a word of its own is written into its folder."""
    waiting = dict(enumerate(submitted))
    looked = 0.0
    while waiting:
        look = time.monotonic() - looked > LOOK_SECONDS
        looked = time.monotonic() if look else looked
        for index, handle in list(waiting.items()):
            job = sweep.to_run[index]
            if handle.paths.result_pickle.exists() or (look and _is_gone(job, handle, ask=index == min(waiting))):
                del waiting[index]
                entry = ledger.inspect(job.folder)
                print(f"{job.label}: {entry.state} {entry.note}".rstrip(), flush=True)
        time.sleep(1)


def _is_gone(job: Job, handle: Any, *, ask: bool) -> bool:
    """Whether a job has died, and will not start again as one does whose node was lost; then its folder says so.

    `ask`: have the scheduler's answer, for all jobs, renewed.
    """
    from submitit.core.utils import UncompletedJobError

    if not handle.done(force_check=ask) or ledger.is_submitted(job.folder):
        return False
    try:
        handle.results()  # waits for a result that is late
    except UncompletedJobError:
        if not (job.folder.failure.exists() or job.folder.summary.exists()):
            job.folder.record_failure(f"the job has ended: {handle.state}", log=str(handle.paths.stderr))
    return True
