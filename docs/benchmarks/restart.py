"""From the command to the first update after a kill, by phases: a run is started, killed by SIGKILL, and started again.

    python docs/benchmarks/restart.py OUT.jsonl [--runs vae flow] [--rounds 3] [OVERRIDES…]      a line a start

cold: the very first start, nothing is kept. same: after a kill, on the same disk. moved: output folder and all local
caches are gone, the mirror is there. moved, nothing kept: the same with cache.compiled=false, as it would be without.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

SIZE = ["model=compact", "data=shapes", "data.img_size=256", "data.n_images=2048"]
RUNS = {
    "vae": ["stage=vae", *SIZE, "stage.steps.vae.batch_size=64", "stage.steps.vae.n_epochs=1000"],
    "flow": [
        *("stage=vae_flow", *SIZE, "stage.steps.vae.max_updates=4", "stage.steps.flow.n_epochs=1000"),
        *("stage.steps.flow.batch_size=64", "cache.mode=on"),
    ],
}
QUIET = ["evaluation.every_epochs=null", "samples.every_epochs=null", "health.images=null", "tracking=off"]
LIMIT_SECONDS = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    for step in options.runs:
        with tempfile.TemporaryDirectory() as scratch:
            for row in measure(Path(scratch), step, options.overrides, options.rounds):
                row |= {"run": step, "overrides": options.overrides, "torch": torch.__version__}
                row["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
                print(
                    row["kind"], step, json.dumps({k: row[k] for k in ("clock_seconds", "seconds", "phases", "graphs")})
                )
                sys.stdout.flush()
                with options.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")


def measure(scratch: Path, step: str, overrides: list[str], rounds: int) -> Any:
    """A row for each start, of which each but the first follows a kill."""
    words = [*RUNS[step], *QUIET, f"checkpoint.mirror={scratch / 'mirror'}", "checkpoint.every_updates=10", "name=run"]
    words += [f"output_root={scratch / 'outputs'}", *overrides]
    words = list({word.partition("=")[0]: word for word in words}.values())  # an override takes another's place
    yield {"kind": "cold", **start(scratch, step, words)}
    for _ in range(rounds):
        yield {"kind": "same", **start(scratch, step, words)}
        lose(scratch)
        yield {"kind": "moved", **start(scratch, step, words)}
        lose(scratch)
        yield {"kind": "moved, nothing kept", **start(scratch, step, [*words, "cache.compiled=false"])}


def lose(scratch: Path) -> None:
    """Take away all but the mirror, as a machine that vanishes does."""
    for lost in ("outputs", "inductor", "triton-home"):
        shutil.rmtree(scratch / lost, ignore_errors=True)


def start(scratch: Path, step: str, words: list[str]) -> dict[str, Any]:
    """Start, wait for the first update and a save after it, and kill; what run.json tells of the first update."""
    places = {"TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"), "TRITON_HOME": str(scratch / "triton-home")}
    record, checkpoints = scratch / "outputs" / "run" / "run.json", scratch / "outputs" / "run" / "checkpoints"
    log, began, line = scratch / "log.txt", time.time(), 0.0
    before = saves(checkpoints, step)
    starts = len(read(record))
    with log.open("w") as said:
        child = subprocess.Popen(
            [sys.executable, "-m", "fluxflow_exp", *words],
            stdout=said,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if name != "TRITON_CACHE_DIR"} | places,
            start_new_session=True,
        )
        try:
            while not line or saves(checkpoints, step) <= before:
                time.sleep(0.02)
                if child.poll() is not None or time.time() - began > LIMIT_SECONDS:
                    raise SystemExit(f"the run did not begin:\n{log.read_text()[-4000:]}")
                if not line and "First update after" in log.read_text():
                    line = time.time() - began
        finally:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    found = read(record)[-1]
    assert len(read(record)) > starts, "the run did not continue"
    kept = [path.stat().st_size for path in (scratch / "outputs" / "cache").glob("compiled-*.bin")]
    return {"clock_seconds": round(line, 2), **found["first_update"], "kept_bytes": kept, "words": words}


def saves(checkpoints: Path, step: str) -> int:
    """The update of the newest checkpoint of `step`; 0: there is none."""
    return max((int(path.name.split("-")[2]) for path in checkpoints.glob(f"*-{step}-*.pt")), default=0)


def read(record: Path) -> list[dict[str, Any]]:
    return json.loads(record.read_text())["starts"] if record.exists() else []


if __name__ == "__main__":
    main()
