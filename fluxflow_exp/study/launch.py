"""Training the runs of a study by sweeps, each in a process of its own, by the command that a user would type.

What is done is left out and what was interrupted continues because sweeps do so.
"""

import gc
import os
import time

from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import slurm
from fluxflow_exp.run import states
from fluxflow_exp.study import children
from fluxflow_exp.study.children import ANY, Child
from fluxflow_exp.study.runs import Run
from fluxflow_exp.study.spec import Spec

LOOK_SECONDS = 5.0  # between looks at runs that another process has


def places(spec: Spec, runs: list[Run]) -> list[str]:
    """Where runs are trained side by side: the GPUs that each sees, as CUDA_VISIBLE_DEVICES has them.

    One that sees all there is (ANY), unless this machine trains and has GPUs for several runs; each `side_by_side`
    times.
    """
    hardware = [run.values["hardware"] for run in runs]
    if spec.where != "here" or any(each["device"] == "cpu" for each in hardware):
        return [ANY] * spec.side_by_side
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    gpus, each = named.split(",")[:count], max((own["devices"] for own in hardware), default=1)
    found = [",".join(gpus[first : first + each]) for first in range(0, count - each + 1, each)]
    return (found if len(found) > 1 else [ANY]) * spec.side_by_side


def command(spec: Spec, runs: list[Run]) -> list[str]:
    """The words of the sweep of `runs`, which differ in their seeds alone."""
    seeds = ",".join(str(run.seed) for run in runs)
    groups = ["--config-dir", spec.config_dir] if spec.config_dir else []
    launcher = [] if spec.where == "here" else [f"hydra/launcher={spec.where}"]
    return ["python", "-m", "fluxflow_exp", "-m", *groups, *runs[0].words, f"seed={seeds}", *launcher]


def lacking(spec: Spec) -> str | None:
    """Say why no run of the study can be started from this machine; None: they can."""
    why = slurm.lacking() if spec.where == "slurm" else None
    return why and f"where=slurm: {why}. Start it on a machine of the cluster, or say where=here or where=slurm_local"


def train(spec: Spec, runs: list[Run]) -> list[Run]:
    """Train those of `runs` that are not done; those that have failed by then are returned.

    SystemExit: a signal stopped it; what was at hand has saved. UserError: a sweep could not begin.
    """
    waited, failed = False, list[Run]()
    while True:
        entries = {run: run.entry() for run in runs if run not in failed}
        todo = [run for run, entry in entries.items() if entry.state in states.TO_RUN or _is_old(run, entry)]
        active = [run for run, entry in entries.items() if entry.state in (states.RUNNING, states.QUEUED)]
        if not todo and not active:
            return failed
        if todo:
            why = lacking(spec)
            if why:
                raise UserError(why)
            _sweeps(spec, todo)
            failed += [run for run in todo if run.entry().state == states.FAILED]
            left = [run for run in todo if run.entry().state in (states.NEW, states.INTERRUPTED)]
            if left:
                raise UserError(
                    f"{left[0].arm} with seed {left[0].seed} was not trained to its end: its sweep says why above. "
                    "The same command continues it"
                )
        if active:
            if not waited:
                print(f"Waiting for {_named(active)}, which another process or the scheduler has", flush=True)
            waited = True
            time.sleep(LOOK_SECONDS)


def _is_old(run: Run, entry: states.Entry) -> bool:
    """Whether the sweep is to move it aside."""
    return entry.state in (states.STALE, states.DAMAGED) and run.values["resume"] == "fresh"


def _named(runs: list[Run]) -> str:
    first = f"{runs[0].arm} with seed {runs[0].seed}"
    return first if len(runs) == 1 else f"{len(runs)} runs ({first}, …)"


def _sweeps(spec: Spec, runs: list[Run]) -> None:
    """A sweep for each arm: one after the other here, all at once where a scheduler has the devices.

    Where several are trained side by side it is one for each run, so that none waits while there is something to train:
    a seed of every arm before the next one, which then finds its arm's code compiled.
    """
    there = places(spec, runs)
    groups: dict[tuple[tuple[str, ...], int], list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed) if len(there) > 1 else runs:
        groups.setdefault((run.words, run.seed if len(there) > 1 else 0), []).append(run)
        run.folder.path.mkdir(parents=True, exist_ok=True)  # of one name, whichever seeds are launched together
    _release_memory()
    sweeps = [Child(_name(each, there), command(spec, each)) for each in groups.values()]
    codes = children.run(sweeps, places=there if spec.where == "here" else [ANY] * len(sweeps), group=spec.name)
    if 2 in codes:
        raise UserError("a sweep could not begin: what is wrong is said above")


def _release_memory() -> None:
    """Give back what timing and measuring in this process have left reserved of a GPU, which runs now need."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()
        torch.cuda.empty_cache()


def _name(runs: list[Run], there: list[str]) -> str:
    """What tells this sweep from those beside it."""
    words = [runs[0].arm, runs[0].rate, f"seed={runs[0].seed}" if len(there) > 1 else ""]
    return " ".join(filter(None, words))
