"""Training work: floating point operations of a step's updates, counted by running its own trainer without data.

Forward and backward passes of every player are counted, and frozen parts that an update runs; what activation
checkpointing computes again is not, since it depends on the card. Convolutions, matrix products and attention count, a
multiplication and an addition as two; pointwise operations, Bezier curves among them, do not.
"""

import dataclasses

from fluxflow_exp.config.schema import RunConfig
from fluxflow_exp.data.protocols import DataSet
from fluxflow_exp.plan.dry_run import rehearsal
from fluxflow_exp.step_length import Length


def tflop(config: RunConfig, name: str, length: Length, data: DataSet) -> list[float]:
    """TFLOP of each update of step `name`; takes about a second for each kind of update (`Trainer.kind`).

    One image is rehearsed: no loss and no model makes images of a batch depend on each other.
    """
    # Without the compiler's graphs, which compute the same, there is nothing to trace.
    hardware = dataclasses.replace(config.hardware, compile=False, activation_checkpointing=False)
    one = dataclasses.replace(length, batch_size=1, micro_batch=1)
    with rehearsal(dataclasses.replace(config, hardware=hardware), name, one, data) as tried:
        each = {kind: length.batch_size * tried.flops(kind) / 1e12 for kind in tried.kinds()}
        return [each[tried.trainer.kind(update)] for update in range(length.updates)]
