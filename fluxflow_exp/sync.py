"""`python -m fluxflow_exp.sync RUN…`: send to Weights & Biases what runs have recorded and the server does not have."""

import argparse
import sys
from pathlib import Path

from fluxflow_exp.config.compose import typed
from fluxflow_exp.console import Console, fail
from fluxflow_exp.errors import counted
from fluxflow_exp.run import failures, lookup, states, wandb
from fluxflow_exp.run.folder import RunFolder


@failures.command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.sync",
        description="Send the metrics and pictures of runs to Weights & Biases, from their folders. Rows that the "
        "server has are left out, so that it can be repeated. Needs a key (wandb login) and the network.",
    )
    parser.add_argument("run", type=Path, nargs="+", help="run folders, or folders of them (a sweep)")
    options = parser.parse_args(arguments)
    found = lookup.several(options.run, aside=True)
    reason = wandb.unreachable()
    if reason:
        fail([f"nothing was sent: {reason}"])
        return 1
    whole = states.whole(found)
    return max([int(len(whole) < len(found)), *map(_send, whole)])


def _send(folder: RunFolder) -> int:
    if not folder.try_lock():
        fail([f"{folder.path} is being trained: that process sends its own rows"])
        return 1
    try:
        return _send_rows(folder)
    finally:
        folder.unlock()


def _send_rows(folder: RunFolder) -> int:
    tracking = typed(folder.frozen()).tracking
    tracking.mode = "online"
    run = wandb.WandbRun(folder, tracking, Console())
    run.start(fallback=False)
    if not run.opened:
        return 1
    run.catch_up(run.steps[-1])
    run.finish(code=0, metrics=wandb.final_metrics(folder))
    print(f"{folder.path}: {counted(run.sent, 'row')}, {run.sent - min(run.known, run.sent)} of them new to the server")
    return 0


if __name__ == "__main__":
    sys.exit(main())
