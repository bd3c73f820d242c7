"""A comparison on Weights & Biases: one run with a table of groups, one of pairs, the plot, and the sentences."""

import os
from pathlib import Path
from typing import Any

from fluxflow_exp.compare.pairs import Comparison
from fluxflow_exp.run.wandb import unreachable

GROUPS = ("group", "seeds", "mean", "half_width", "std")
PAIRS = ("reference", "other", "difference", "low", "high", "correction", "p_adjusted", "distinguishable", "sentence")


def send(comparison: Comparison, facts: dict[str, Any], folder: Path, project: str) -> str:
    """Send what `folder` holds; where it went. Offline, without a key or a network, it is written into `folder`."""
    import wandb

    mode = os.environ.get("WANDB_MODE") or "online"
    reason = unreachable() if mode == "online" else None
    question = comparison.question
    run = wandb.init(
        mode="offline" if reason else mode,  # type: ignore[arg-type]
        project=project,
        job_type="comparison",
        name=f"{question.metric} by {question.by}",
        dir=str(folder),
        config={name: facts[name] for name in ("arguments", "by", "metric", "better", "budget", "confidence")},
        settings=wandb.Settings(silent=True, console="off"),
    )
    run.log(
        {
            "groups": wandb.Table(columns=list(GROUPS), data=[_group(each) for each in facts["groups"]]),
            "pairs": wandb.Table(columns=list(PAIRS), data=[_pair(each) for each in facts["pairs"]]),
            "plot": wandb.Image(str(folder / "comparison.png")),
        }
    )
    run.summary.update(
        {
            "sentences": [each["sentence"] for each in facts["pairs"]],
            "notes": facts["notes"],
            **{f"mean/{each['name']}": each["mean"] for each in facts["groups"]},
        }
    )
    where = run.url or f"{folder / 'wandb'}, offline{f' ({reason})' if reason else ''}; wandb sync sends it"
    run.finish()
    wandb.teardown()  # the service writes on behind finish(): only its end leaves a whole file
    return str(where)


def _group(facts: dict[str, Any]) -> list[Any]:
    return [facts["name"], len(facts["runs"]), facts["mean"], facts["half_width"], facts["std"]]


def _pair(facts: dict[str, Any]) -> list[Any]:
    low, high = facts["interval"] or (None, None)
    ends = [facts["reference"], facts["other"], facts["difference"], low, high]
    return [*ends, facts["correction"], facts["p_adjusted"], facts["distinguishable"], facts["sentence"]]
