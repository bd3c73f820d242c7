"""Work that a run had done by an update: counted from its frozen configuration, so that rows need not hold it.

It is a function of configuration and update, which any run can be asked for later, at no price while it trains.
"""

import json
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fluxflow_exp.compare.runs import Run
from fluxflow_exp.errors import UserError
from fluxflow_exp.run import frozen, time_budget

# What does not change the work; one count serves all runs that differ in nothing else.
ASIDE = ("name", "seed", "output_root", "tracking", "checkpoint", "publish", "samples", "log_every", "evaluation")

Done = dict[str, NDArray[np.float64]]  # step → TFLOP after 0, 1, 2, … updates


def done(run: Run, step: str) -> NDArray[np.float64]:
    """TFLOP after 0, 1, 2, … updates of a step. UserError: its data are not here, or this version cannot read it."""
    try:
        values = frozen.to_build(run.folder.config, measured=False)
        values = time_budget.settled(values, run.folder.read_record())
        kept = {name: value for name, value in values.items() if name not in ASIDE}
        return _counted(json.dumps({**kept, "name": "counted"}, sort_keys=True))[step]
    except UserError as error:
        raise UserError(f"{run.name}: TFLOP cannot be counted from its configuration and data: {error}") from error


@cache
def _counted(values: str) -> Done:
    from fluxflow_exp.config.compose import typed
    from fluxflow_exp.data.build import build_data
    from fluxflow_exp.plan import flops  # torch
    from fluxflow_exp.step_length import lengths_of

    found = json.loads(values)
    print(f"Counting the work of an update: model={found['model']['name']}, {found['model']['activation']}", flush=True)
    for step in found["stage"]["steps"].values():
        step["init_from"] = None  # weights do not change the work, and may be gone
    config = typed(found)
    data = build_data(config)
    made = {}
    for name, length in lengths_of(config, data).items():
        updates = flops.tflop(config, name, length, data[name])
        made[name] = np.concatenate([[0.0], np.cumsum(updates)])
    return made
