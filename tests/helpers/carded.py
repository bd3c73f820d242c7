"""A run folder with all that a card can show, made without training; some of its texts try to break out of the page."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from fluxflow_exp import files
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import MetricLog
from tests.conftest import toy

HOSTILE = '</script><script>alert("1")</script>" onload="alert(2)" & <b>'
STEPS = {"vae": 24, "vae_gan": 16, "flow": 32}
MACHINE = "NVIDIA H100, bf16; an interrupted run continues to rounding"
HASHES = ("00aa11", "22bb33")


def make_carded(root: Path, name: str = "run", *overrides: str, offset: float = 0.0) -> RunFolder:
    """A finished quickstart on a GPU, killed once and stopped once; `offset` is added to its held-out PSNR."""
    folder = RunFolder(root / name)
    values = toy(root, f"name={name}", "hardware.price_per_hour=2.0", *overrides)
    facts = {
        "name": name, "seed": values["seed"], "overrides": [HOSTILE, *overrides], "commit": "a" * 40,
        "changed_code": None, "upstream": {"/weights/vae.safetensors": "b" * 64},
        "made_with": {"machine": MACHINE, "torch": "2.11"},
    }  # fmt: skip
    folder.create(values, facts)
    folder.write_record({**folder.read_record(), **_record()})
    files.write_json(folder.summary, {})
    files.write_json(folder.digests, {"weights/final.safetensors": {"sha256": "c" * 64, "bytes": 2**20, "changed": 0}})
    for index, (step, updates) in enumerate(STEPS.items(), start=1):
        _rows(folder, step, index, updates, offset)
    _certificates(folder)
    return folder


def _record() -> dict[str, Any]:
    """Two devices for an hour, then one: 3 GPU hours, of which 1 useful, 0.5 lost."""
    start = {"after": None, "machine": MACHINE, "devices": 2, "seconds": 3600.0}
    starts = [
        {**start, "time": "2026-01-02T03:04:05+00:00", "spent": {"training": 900.0, "data": 90.0, "compile": 180.0}},
        {
            **start, "time": "2026-01-02T05:00:00+00:00", "after": "killed", "devices": 1,
            "spent": {"training": 1800.0, "evaluation": 360.0}, "lost": {"seconds": 900.0, "updates": 7},
        },
    ]  # fmt: skip
    steps = {
        step: {
            "epochs": 2, "updates": updates, "images": 8 * updates, "micro_batch": 4, "seconds": 10.0 * updates,
            "peak_gib": 3.5, "parameters": {step: 1_500_000}, "final": {"val_psnr": 21.5},
            "verdict": "held-out loss (val_l1) was still falling at update 24: longer pays",
        }
        for step, updates in STEPS.items()
    }  # fmt: skip
    steps["vae"]["best"] = {"update": 16, "metric": "val_psnr", "value": 19.0}  # as if it were a loss
    planned = {step: {"updates": updates, "micro_batch": 8} for step, updates in STEPS.items()}
    counts = {"started": True, "restarts": 1, "kills": 1, "closed": "ended", "wall_seconds": 7200.0}
    return {**counts, "starts": starts, "steps": steps, "planned": planned}


def _rows(folder: RunFolder, step: str, index: int, updates: int, offset: float) -> None:
    log = MetricLog(folder.metrics(step))
    for update in range(4, updates + 1, 4):
        at = {"update": update, "epoch": 1 + update // 13, "batch": update}
        metrics = {"vae": 1 / update, "kl": 30.0, f"{step}_norm": 0.5, "g": -0.1, "d": float("nan")}
        extras = {"seconds": 10.0 * update, "batch_time": 10.0}
        log.write("train", metrics=metrics, learning_rates={"vae": 1e-3, "discriminator": 1e-4}, extras=extras, **at)
        if update % 8 == 0:
            log.write("held_out", metrics={"val_psnr": 15 + update / 4 + offset}, **at)
            log.write("held_out_raw", metrics={"val_psnr": 14 + update / 4 + offset}, **at)
            log.write("samples", metrics={}, texts={"pictures": _pictures(folder, step, index, update)}, **at)
    health = [{"logit_gap": 0.2, "active_units": 12.0}, {"logit_gap": 4.0, "active_units": 3.0}]
    with log.path.open("a", encoding="utf-8") as file:
        for update, numbers in zip((8, 16), health, strict=True):
            row = {
                "timestamp": "2026-01-02T03:05:00+00:00", "kind": "health", "epoch": 1, "batch": update,
                "global_step": update, "metrics": numbers, "learning_rates": {}, "extras": {},
                "warnings": {"discriminator_dominates": f"The discriminator dominates: lower its rate. {HOSTILE}"},
            }  # fmt: skip
            file.write(f"{json.dumps(row)}\n")


def _pictures(folder: RunFolder, step: str, index: int, update: int) -> dict[str, str]:
    stem = f"{step}_{index:03d}_001_{update:05d}"
    rows = ("",) if step == "flow" else ("-original", "-nr_o")
    for number, digits in enumerate(HASHES):
        for row in rows:
            shade = 40 + 100 * number if row == "-original" else (5 * update + 60 * number) % 256
            picture = Image.new("RGB", (300 if step == "flow" else 16,) * 2, (shade, 90, 160))
            picture.save(folder.samples / f"{stem}_{digits}{row}.webp", lossless=True)
    if step == "flow":
        return {f"{stem}_{HASHES[0]}.webp": HOSTILE, f"{stem}_{HASHES[1]}.webp": "a white ring"}
    Image.new("RGB", (200, 100)).save(folder.samples / f"{stem}_grid.webp")
    return {f"{stem}_grid.webp": "original, reconstruction"}


def _certificates(folder: RunFolder) -> None:
    record = {
        "metric": "fid", "value": 12.25, "unit": None, "lower_is_better": True, "step": "flow", "update": 32,
        "ema": True,
        "n": 2048, "seed": 0, "guidance": 4.0, "img_size": 32, "implementation": "torchmetrics 1.8",
        "features": {"name": "inception", "digest": "d" * 64}, "weights_digest": "e" * 64, "reference_digest": "f" * 64,
    }  # fmt: skip
    pairs = [
        {
            "sample": "copy_00.webp", "training": name, "prompt": HOSTILE, "caption": "a white ring", "name": "7.png",
            "distance": 0.0625, "mirrored": True,
        }
        for name in ("copy_11.webp", "../samples/copy_11.webp")
    ]  # fmt: skip
    for name, shade in (("copy_00.webp", 20), ("copy_11.webp", 200)):
        picture = Image.new("RGB", (16, 16), (shade, 90, 160))
        for place in (folder.path / "evaluations", folder.samples):
            place.mkdir(exist_ok=True)
            picture.save(place / name, lossless=True)
    copies = {**record, "metric": "copies", "value": 0.5, "nearest": {"said": "copies found: 1 of 2", "pairs": pairs}}
    evaluation = {"format": 1, "weights": "weights/final.safetensors", "results": [record, copies]}
    files.write_json(folder.path / "evaluations" / "final.json", evaluation)
    checks = [
        {"step": "vae", "check": "gradients reach the expander", "passed": True, "note": ""},
        {"step": "vae_gan", "check": "EMA moves", "passed": False, "note": "it stood still"},
    ]
    wiring = {"format": 1, "date": "2026-01-02", "version": "0.1.0", "passed": False, "checks": checks}
    files.write_json(folder.path / "wiring.json", wiring)
    non_finite = {
        "step": "flow", "update": 31, "term": "flow", "module": None, "ids": ["a"], "player": "flow",
        "message": "the flow loss was not finite",
    }  # fmt: skip
    files.write_json(folder.path / "non_finite.json", non_finite)
    steps = [{"step": "vae", "seconds": 8.0, "hours": 0.05, "peak_gib": 3.0, "tflop": 1.9}]
    files.write_json(folder.path / "plan.json", {"steps": steps})
