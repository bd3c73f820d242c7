"""Run folders as training leaves them, with values of one's choice: what a comparison reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fluxflow_exp import files
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import MetricLog

Make = Callable[..., Path]
UPDATES = (10, 20, 30)
BATCH = 8
GPU = "NVIDIA H100, bf16; an interrupted run continues to rounding"


def make_run(
    root: Path,
    activation: str,
    seed: int,
    values: list[float | None],
    *,
    metric: str = "val_psnr",
    updates: tuple[int, ...] = UPDATES,
    seconds: float = 2.0,
    finished: bool = True,
    config: dict[str, Any] | None = None,
    record: dict[str, Any] | None = None,
    extras: dict[str, float] | None = None,
) -> Path:
    """A run folder with a held-out row after each of `updates`; `seconds`: that an update takes."""
    folder = RunFolder(root / f"{activation}-{seed}")
    values_now: dict[str, Any] = {
        "name": "study", "seed": seed, "output_root": "outputs",
        "model": {"name": "toy", "activation": activation, "expander": {"activation": activation}, "vae_dim": 4},
        "data": {"n_images": 80},
        "optimizer": {"lr": 1e-3},
        "stage": {"name": "vae", "steps": {"vae": {"batch_size": BATCH, "n_epochs": 3, "data": None}}},
        "hardware": {"devices": 2, "slurm": {"nodes": 1}},
    }  # fmt: skip
    for key, value in (config or {}).items():
        *sections, last = key.split(".")
        there = values_now
        for section in sections:
            there = there[section]
        there[last] = value
    facts = {
        "name": "study", "commit": "a" * 40, "changed_code": None, "upstream": {},
        "made_with": {"machine": "CPU, 1 threads, fp32", "torch": "2.11"},
    }  # fmt: skip
    folder.create(values_now, facts)
    steps = {"vae": {"updates": updates[-1]}} if finished else {}
    folder.write_record({**folder.read_record(), "steps": steps, **(record or {})})
    if finished:
        files.write_json(folder.summary, {})
    log = MetricLog(folder.metrics("vae"))
    for update, value in zip(updates, values, strict=True):
        counted = {"seconds": update * seconds, **{k: v * update for k, v in (extras or {}).items()}}
        log.write("train", update=update, epoch=1, batch=update, metrics={"l1": 1.0}, extras=counted)
        shown = float("nan") if value is None else value
        log.write("held_out", update=update, epoch=1, batch=update, metrics={metric: shown})
    return folder.path


def study(make: Make, better: list[float], worse: list[float], **changes: Any) -> Path:
    """Bezier's and SiLU's last values, a seed each."""
    for activation, lasts in (("bezier", better), ("silu", worse)):
        for seed, last in enumerate(lasts):
            path = make(activation, seed, [last - 2, last - 1, last], **changes)
    return path.parent


def command(root: Path, *words: str, metric: str = "val_psnr") -> list[str]:
    return [str(root), "--by", "model.activation", "--metric", metric, *words]
