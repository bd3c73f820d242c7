"""docs/pictures/study_bezier.png from results.json: each seed, and the mean over seeds.

python docs/studies/bezier/draw.py
"""

import argparse
import json
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
MODELS = {
    "bezier": "Bezier",
    "silu_params": "SiLU",
    "gelu_params": "GELU",
    "relu_params": "ReLU",
    "silu_time": "SiLU",
    "gelu_time": "GELU",
    "relu_time": "ReLU",
    "bezier_half": "Bezier",
    "silu_half": "SiLU",
}
GROUPS = {
    "equal parameters\nand work": "#0b6e4f",
    "wider, up to\nequal time": "#3567a8",
    "half the\nparameters": "#b5482a",
}
METRICS = {"psnr": "PSNR, dB (higher is better)", "st_lpips": "ST-LPIPS (lower)", "rfd": "Fréchet distance (lower)"}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    runs = json.loads((HERE / "results.json").read_text())["runs"]
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), constrained_layout=True)
    for place, (metric, label) in zip(axes, METRICS.items(), strict=True):
        for x, model in enumerate(MODELS):
            group = list(GROUPS)[2 if model.endswith("half") else int(model.endswith("time"))]
            values = [
                r["value"] for run in runs if run["model"] == model for r in run["results"] if r["metric"] == metric
            ]
            place.plot([x] * len(values), values, "o", color=GROUPS[group], markersize=4, alpha=0.7)
            place.hlines(statistics.mean(values), x - 0.3, x + 0.3, color=GROUPS[group])
        place.set_xticks(range(len(MODELS)), MODELS.values(), rotation=60)
        place.set_title(label, fontsize=10)
        place.grid(alpha=0.3)
    for name, colour in GROUPS.items():
        axes[0].plot([], [], "o-", color=colour, label=name.replace("\n", " "))
    axes[0].legend(fontsize=8)
    figure.savefig(HERE.parent.parent / "pictures" / "study_bezier.png", dpi=100)


if __name__ == "__main__":
    main()
