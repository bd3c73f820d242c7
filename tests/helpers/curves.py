"""Run folders with a planted course of the flow loss, made without training."""

import math
from functools import cache
from pathlib import Path
from typing import Any

from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import MetricLog
from tests.conftest import toy

UPDATES, EPOCH, BATCH, EVERY = 400, 40, 8, 4
PEAK = 1e-3


@cache
def _values(*overrides: str) -> dict[str, Any]:
    words = ["stage.steps.flow.batch_size=8", f"log_every={EVERY}", f"model.learning_rate={PEAK}", *overrides]
    return toy(Path(), *words, stage="flow_cfg")


def plant(
    root: Path,
    *overrides: str,
    seed: int = 0,
    times: float = 1.0,
    ends: int = UPDATES,
    of: int = UPDATES,
    names: str = "a",
) -> RunFolder:
    """A flow step of `of` updates, up to `ends`, whose losses are `times` those of a run that is on track."""
    folder = RunFolder(root / f"run_{seed}_{times}_{ends}_{of}")
    values = {**_values(*overrides), "name": folder.path.name, "seed": seed, "output_root": str(root)}
    step = "flow"
    folder.create(values, {"name": folder.path.name, "seed": seed, "made_with": {"machine": "CPU", "torch": "2.14"}})
    length = {"updates": of, "updates_per_epoch": EPOCH, "batch_size": BATCH, "micro_batch": BATCH}
    contents = {"training": EPOCH * BATCH, "held_out": 8, "names": names, "captions": names, "files": names}
    done: dict[str, Any] = {step: {"updates": of, "final": {}}} if ends == of else {}
    record = {"planned": {step: length}, "contents": {step: contents}, "steps": done}
    folder.write_record({**folder.read_record(), **record})
    rows(folder, step, seed, times, ends, of)
    return folder


def rows(folder: RunFolder, step: str, seed: int, times: float, ends: int, of: int) -> None:
    """Write the step's rows, which fall from 2 to about 1; seeds are a hundredth apart."""
    log = MetricLog(folder.metrics(step))
    for update in range(EVERY, ends + 1, EVERY):
        loss = times * (1 + math.exp(-update / 60) + 0.01 * seed)
        rate = PEAK * (1 + math.cos(math.pi * update / of)) / 2
        at = {"update": update, "epoch": (update - 1) // EPOCH + 1, "batch": (update - 1) % EPOCH + 1}
        log.write("train", metrics={"flow": loss}, learning_rates={"flow": rate}, **at)
        if update % EPOCH == 0:
            log.write("held_out", metrics={"val_flow": loss}, **at)
