"""Several GPUs against one: seconds an update, waiting for data, exchanges and memory of each rank.

    python docs/benchmarks/gpus.py OUT.jsonl [--devices 2 4] [--updates 40] [--run NAME] [OVERRIDES…]    a line a run
    python docs/benchmarks/gpus.py OUT.jsonl --table                                                      what they say

Strong scaling: the same global batch on one GPU and on N. Weak: N times the batch on N. Every number of GPUs is
compared with one GPU, which is measured, too. A run builds the step's trainer with fresh weights on each rank
(benchmark/several.py), compiles and warms up, then times updates with batches in memory and with the loader. LPIPS has
random VGG16 weights: for time only. Latents of the flow step are cached first. Updates of 20 ms want `--updates 400`:
forty are over within a second, in which loaders have hardly begun.

Where minutes are dear, runs on one GPU go side by side, and the rest after them:

    CUDA_VISIBLE_DEVICES=0 python docs/benchmarks/gpus.py OUT.jsonl --devices 1 --run compact … &
    CUDA_VISIBLE_DEVICES=1 python docs/benchmarks/gpus.py OUT.jsonl --devices 1 --run fluxflow … & wait
    python docs/benchmarks/gpus.py OUT.jsonl --devices 2 --missing …                     what OUT.jsonl lacks
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.machine import clock

SPADE = "stage.steps.vae_gan_spade"
SCALINGS = ("strong", "weak")
SECONDS_TO_END = 10  # for the other ranks, after one has ended by an error


class Piece(NamedTuple):
    """A step, and its batches on so many GPUs."""

    step: str
    overrides: list[str]
    strong: dict[int, int]  # GPUs → batch, which one GPU is given as well
    each: int  # of a GPU, where the batch grows with their number


PIECES = {
    "compact, VAE, 256 px": Piece(
        "vae", ["stage=vae", "model=compact", "data.img_size=256"], {2: 64, 4: 128, 8: 256}, 64
    ),
    "flow with caches, 256 px, width 768": Piece(
        "flow",
        [
            *("stage=full", "model=compact", "data.img_size=256", "cache.mode=on"),
            *("model.flow_processor.width=768", "model.flow_processor.heads=12"),
        ],
        {2: 256, 4: 256, 8: 256},
        256,
    ),
    "fluxflow, VAE + GAN + LPIPS + SPADE, 1024 px": Piece(
        "vae_gan_spade",
        [
            *("stage=vae_gan_spade", "model=fluxflow", "data.img_size=1024"),
            *(f"+loss@{SPADE}.trainer.perceptual=lpips", f"{SPADE}.trainer.perceptual.pretrained=false"),
            *(f"{SPADE}.trainer.adversarial.start=0", "hardware.micro_batch.autoencoder=1"),
        ],
        {2: 4, 4: 8, 8: 16},
        4,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--devices", type=int, nargs="+", default=[2], choices=[1, 2, 4, 8], metavar="N")
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--run", default="", help="only those whose name holds this")
    parser.add_argument("--scaling", nargs="+", default=list(SCALINGS), choices=SCALINGS)
    parser.add_argument("--missing", action="store_true", help="leave out runs that OUT.jsonl holds")
    parser.add_argument("--table", action="store_true", help="only say what OUT.jsonl holds")
    parser.add_argument("--as-rank", help=argparse.SUPPRESS)  # STEP, of a process that this one has started
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    if options.as_rank:
        _rank(options.out, options.as_rank, options.updates)
        return
    for name, piece in PIECES.items():
        known = _held(options.out, name) if options.missing else []
        for devices, batch in _wanted(piece, options) if options.run in name and not options.table else []:
            if (devices, batch) in known:
                continue
            row = {"run": name, "devices": devices, **measure(piece, devices, batch, options)}
            print({key: value for key, value in row.items() if key not in ("overrides", "ranks")}, flush=True)
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    print(table([json.loads(line) for line in options.out.read_text().splitlines()]))


def _wanted(piece: Piece, options: argparse.Namespace) -> list[tuple[int, int]]:
    """(GPUs, batch) of the runs, each once."""
    found = {}
    for devices in options.devices:
        if "strong" in options.scaling:
            batch = piece.strong.get(devices, piece.each)
            found |= dict.fromkeys(((1, batch), (devices, batch)))
        if "weak" in options.scaling:
            found |= dict.fromkeys(((1, piece.each), (devices, devices * piece.each)))
    return list(found)


def _held(out: Path, name: str) -> list[tuple[int, int]]:
    """(GPUs, batch) of the runs of this name that `out` holds."""
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    return [(row["devices"], row["batch"]) for row in rows if row["run"] == name]


def measure(piece: Piece, devices: int, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """Numbers of each rank, and of the slowest: it is what the others wait for."""
    with tempfile.TemporaryDirectory() as scratch:
        step = f"stage.steps.{piece.step}"
        overrides = [*piece.overrides, f"{step}.batch_size={batch}", f"hardware.devices={devices}", *options.overrides]
        given = [*overrides, f"{step}.n_epochs=100000", "tracking=off", f"output_root={scratch}"]
        values = Path(scratch) / "values.json"
        values.write_text(json.dumps(resolve(compose_config(given))))
        ranks = list(_ranks(values, piece.step, devices, options.updates))
    slowest = max(ranks, key=lambda each: each["seconds"]["median"])
    batch = slowest["batch_size"]  # an override may have set another
    worst = {key: _most(ranks, key) for key in ("data_wait", "host_wait", "communication", "communication_alone")}
    return {
        "batch": batch,
        "seconds": slowest["seconds"],
        "images_per_second": batch / slowest["seconds"]["median"],
        **worst,
        "peak_gib": _most(ranks, "peak_gib"),
        "updates": options.updates,
        "date": clock.date(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "overrides": overrides,
        "ranks": ranks,
    }


def _most(ranks: list[dict[str, Any]], key: str) -> float | None:
    found = [each[key] for each in ranks if each[key] is not None]
    return max(found) if found else None


def _ranks(values: Path, step: str, devices: int, updates: int) -> Iterator[dict[str, Any]]:
    """What the ranks have found. SystemExit: one of them has failed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(devices):
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": devices, "LOCAL_WORLD_SIZE": devices}
        places |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        words = [sys.executable, __file__, str(values), "--as-rank", step, "--updates", str(updates)]
        environment = os.environ | {key: str(value) for key, value in places.items()}
        started.append(subprocess.Popen(words, env=environment, stdout=sys.stderr))
    while any(process.poll() is None for process in started):
        time.sleep(0.2)
        if any(process.poll() for process in started):  # the others wait for it
            time.sleep(SECONDS_TO_END)
            for process in started:
                process.kill()
    if any(process.returncode for process in started):
        sys.exit(f"error: ranks ended with {[process.returncode for process in started]}")
    for rank in range(devices):
        yield json.loads(values.with_name(f"rank_{rank}.json").read_text())


def _rank(values: Path, step: str, updates: int) -> None:
    from fluxflow_exp.benchmark import several
    from fluxflow_exp.config import published

    given = json.loads(values.read_text())
    published.allow_all(given)
    found = several.of_rank(given, step, updates=updates)
    values.with_name(f"rank_{os.environ['RANK']}.json").write_text(json.dumps(found))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: each run on several GPUs beside its one GPU, strong and weak; of repeated runs the newest counts."""
    known = {(row["run"], row["devices"], row["batch"]): row for row in rows}
    lines = [
        "| run | GPUs | batch | one GPU, s | N GPUs, s | | data wait | exchange, alone | GiB a GPU |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, devices, batch), row in known.items():
        for kind, alone in (("strong", batch), ("weak", batch // devices)):
            one = known.get((name, 1, alone))
            if devices == 1 or one is None or (kind == "weak" and alone != PIECES[name].each):
                continue
            ratio = one["seconds"]["median"] / row["seconds"]["median"]
            said = f"**{ratio:.2f} x**" if kind == "strong" else f"weak: {ratio:.0%}"
            # Either holds more than waiting: what a caption of a new length compiles, and what the GPU does meanwhile.
            waiting = min(row["data_wait"], row["host_wait"])
            shares = [_percent(share) for share in (waiting, row["communication"], row["communication_alone"])]
            lines.append(
                f"| {name} | {devices} | {batch} | {_seconds(one)} | {_seconds(row)} | {said} | {shares[0]} "
                f"| {shares[1]}, {shares[2]} | {'' if row['peak_gib'] is None else format(row['peak_gib'], '.1f')} |"
            )
    return "\n".join(lines)


def _seconds(row: dict[str, Any]) -> str:
    return f"{row['seconds']['median']:.4f} ({row['seconds']['lower']:.4f} to {row['seconds']['upper']:.4f})"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


if __name__ == "__main__":
    main()
