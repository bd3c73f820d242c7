"""Work that a run had done by an update: counted from its frozen configuration, so that rows need not hold it.

It is a function of configuration and update, which any run can be asked for later, at no price while it trains.
"""

import copy
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxflow_exp.compare_runs import Run
from fluxflow_exp.config import UserError

# What does not change the work; one count serves all runs that differ in nothing else.
ASIDE = ("name", "seed", "output_root", "tracking", "checkpoint", "publish", "samples", "log_every", "evaluation")


class Work:
    """TFLOP of runs, each configuration counted once; a few seconds each."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, NDArray[np.float64]]] = {}

    def of(self, run: Run, step: str) -> NDArray[np.float64]:
        """TFLOP after 0, 1, 2, … updates of a step. UserError: the run's data are not here."""
        key = json.dumps({name: value for name, value in run.values.items() if name not in ASIDE}, sort_keys=True)
        if key not in self._known:
            print(f"Counting the work of an update: {run.name}", flush=True)
            self._known[key] = _counted(run)
        return self._known[key][step]


def _counted(run: Run) -> dict[str, NDArray[np.float64]]:
    from fluxflow_exp import plan, work  # torch
    from fluxflow_exp.config import typed
    from fluxflow_exp.datasets import build_data

    values: dict[str, Any] = copy.deepcopy(run.values)
    for step in values["stage"]["steps"].values():
        step["init_from"] = None  # weights do not change the work, and may be gone
    config = typed(values)
    try:
        data = build_data(config)
    except UserError as error:
        raise UserError(f"{run.name}: TFLOP are counted with its data, which cannot be opened: {error}") from error
    found = {}
    for name, each in config.stage.steps.items():
        updates = work.tflop(config, name, plan.length(each, data[name], config), data[name])
        found[name] = np.concatenate([[0.0], np.cumsum(updates)])
    return found
