"""Pictures of docs/benchmarks/gpu.md from gpu.json: quality over time and images, growth, agreement.

python docs/benchmarks/draw.py
"""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
PICTURES = HERE.parent / "pictures"
OURS, THEIRS, GREY = "#0b6e4f", "#b5482a", "#777777"


def main() -> None:
    found = json.loads((HERE / "gpu.json").read_text())
    quality(found["quality"])
    growth(found["growth"])
    agreement(found["agreement"])


def quality(runs: dict[str, list[dict[str, Any]]]) -> None:
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), constrained_layout=True)
    for row, (metric, label) in enumerate(
        (("psnr", "held-out PSNR, dB"), ("lpips", "held-out LPIPS (ST-LPIPS, AlexNet)"))
    ):
        for column, (budget, unit) in enumerate((("seconds", "seconds of training"), ("images", "images"))):
            place = axes[row, column]
            for name, seeds in runs.items():
                colour = THEIRS if name.startswith("fluxflow") else OURS
                for seed in seeds:
                    x, y = ([each[key] for each in seed["rows"]] for key in (budget, metric))
                    place.plot(x, y, "o-", color=colour, markersize=3, linewidth=1)
            place.set(xscale="log", xlabel=unit, ylabel=label)
            place.grid(alpha=0.3)
    lines = axes[0, 0].get_lines()
    axes[0, 0].legend([lines[0], lines[-1]], ["compact", "FluxFlow's architecture"])
    figure.savefig(PICTURES / "gpu_quality.png", dpi=110)


def growth(rows: list[dict[str, Any]]) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    for size, marker in ((256, "o-"), (512, "s-"), (1024, "^-")):
        mine = [row for row in rows if row["size"] == size]
        x = [row["micro_batch"] for row in mine]
        for place, key in zip(axes, ("images_per_second", "peak_gib"), strict=True):
            place.plot(x, [row[key] for row in mine], marker, label=f"{size} px")
    for place, label, ticks in zip(
        axes, ("images a second", "peak GiB"), ((5, 10, 20, 40), (4, 10, 20, 60)), strict=True
    ):
        place.set(xscale="log", yscale="log", xlabel="micro-batch", ylabel=label)
        place.minorticks_off()
        place.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
        place.set_yticks(ticks, [str(each) for each in ticks])
        place.grid(alpha=0.3)
        place.legend()
    figure.savefig(PICTURES / "gpu_growth.png", dpi=110)


def agreement(found: dict[str, Any]) -> None:
    exact, half = (found[name] for name in found if "float32" in name or "bf16" in name)
    figure, place = plt.subplots(figsize=(9, 3), constrained_layout=True)
    place.plot(exact, color=GREY, linewidth=1, label="plain layers, float32, CPU")
    place.plot(half, color=OURS, linewidth=1, linestyle="--", label="bf16, own kernels, H200")
    place.set(xlabel="update", ylabel="loss")
    place.grid(alpha=0.3)
    place.legend()
    figure.savefig(PICTURES / "gpu_agreement.png", dpi=110)


if __name__ == "__main__":
    main()
