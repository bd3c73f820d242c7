"""results.json: every value of the study's runs with its curve, and what was timed.

python docs/studies/bezier/collect.py outputs/bezier
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from fluxflow_exp.compare.runs import find
from fluxflow_exp.evaluation import record
from fluxflow_exp.run.metric_log import read_rows

HERE = Path(__file__).parent
KEPT = ("metric", "value", "guidance", "n", "seed", "sampler", "implementation", "weights_digest", "reference_digest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of the runs, as given to run.sh")
    parser.add_argument("--to", type=Path, default=HERE / "results.json", help="default: beside this script")
    options = parser.parse_args()
    runs = [facts(run.folder.path) for run in find([options.output])]
    found = {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "timed": {path.stem: json.loads(path.read_text()) for path in sorted(options.output.glob("time_*.json"))},
        "matched": {path.stem: json.loads(path.read_text()) for path in sorted(options.output.glob("match_*.json"))},
        "runs": sorted(runs, key=lambda run: (run["model"], run["seed"])),
    }
    options.to.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(runs)} runs, {sum(len(run['results']) for run in runs)} values in {options.to}")


def facts(path: Path) -> dict[str, Any]:
    run = json.loads((path / "run.json").read_text())
    records = [each for file in sorted((path / record.FOLDER).glob("*.json")) for each in record.read(file)]
    rows = {step: read_rows(path / "graph" / f"training_metrics_{step}.jsonl") for step in run["steps"]}
    return {
        "model": path.parent.name,
        "seed": int(path.name.removeprefix("seed=").partition("-")[0]),
        "wall_seconds": run["wall_seconds"],
        "updates": {step: record["updates"] for step, record in run["steps"].items()},
        "held_out": {
            step: [[row["global_step"], row["metrics"]] for row in rows[step] if row["kind"] == "held_out"]
            for step in rows
        },
        "results": [{key: getattr(each, key) for key in KEPT} for each in records],
    }


if __name__ == "__main__":
    main()
