"""One GPU against two: seconds an update and images a second of the same global batch, through the training command.

    python docs/benchmarks/gpus.py OUT.jsonl [--devices 1 2] [--updates 40] [OVERRIDES…]      a line a run

Times are those of the metric rows (logged every five updates), without the first rows, in which kernels are compiled.
LPIPS has random VGG16 weights: for time only.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from fluxflow_exp.run.metric_log import read_rows

SPADE = "stage.steps.vae_gan_spade"
RUNS = {
    "fluxflow, VAE + GAN + LPIPS + SPADE, 1024 px, batch 4": [
        *("vae_gan_spade", "stage=vae_gan_spade", "model=fluxflow", "data.img_size=1024", f"{SPADE}.batch_size=4"),
        *(f"+loss@{SPADE}.trainer.perceptual=lpips", f"{SPADE}.trainer.perceptual.pretrained=false"),
        *(f"{SPADE}.trainer.adversarial.start=0", "hardware.micro_batch.autoencoder=1"),
    ],
    "compact, VAE, 256 px, batch 64": [
        *("vae", "stage=vae", "model=compact", "data.img_size=256", "stage.steps.vae.batch_size=64"),
    ],
    "compact, VAE, 256 px, batch 64, launched kernel by kernel": [
        *("vae", "stage=vae", "model=compact", "data.img_size=256", "stage.steps.vae.batch_size=64"),
        "hardware.cuda_graphs=false",
    ],
}
LOGGED, SETTLED = 5, 15  # updates between rows; updates before any time counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--run", default="", help="only those whose name holds this")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    for name, (step, *overrides) in RUNS.items():
        for devices in options.devices if options.run in name else []:
            row = {"run": name, "devices": devices, "torch": torch.__version__}
            row["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
            row |= train(step, [*overrides, f"hardware.devices={devices}", *options.overrides], options.updates)
            print({key: value for key, value in row.items() if key != "overrides"}, flush=True)
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")


def train(step: str, overrides: list[str], updates: int) -> dict[str, object]:
    """Seconds an update: median, least and most of the rows; and how long the command took."""
    with tempfile.TemporaryDirectory() as scratch:
        overrides = [*overrides, f"stage.steps.{step}.max_updates={updates}", f"log_every={LOGGED}", "tracking=off"]
        quiet = [
            "samples.every_epochs=null",
            "evaluation.images=8",
            "evaluation.every_epochs=1000",
            f"output_root={scratch}",
            "name=run",
        ]
        subprocess.run([sys.executable, "-m", "fluxflow_exp", *overrides, *quiet], check=True, stdout=sys.stderr)
        folder = Path(scratch) / "run"
        rows = read_rows(folder / "graph" / f"training_metrics_{step}.jsonl")
        record = json.loads((folder / "run.json").read_text())
    times = [row["extras"]["batch_time"] for row in rows if row["kind"] == "train" and row["global_step"] > SETTLED]
    step_record = record["steps"][step]
    return {
        "seconds": {"median": statistics.median(times), "least": min(times), "most": max(times)},
        "images_per_second": step_record["images"] / step_record["updates"] / statistics.mean(times),
        "micro_batch": step_record["micro_batch"],
        "wall_seconds": record["wall_seconds"],
        "overrides": overrides,
    }


if __name__ == "__main__":
    main()
