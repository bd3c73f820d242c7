"""A comparison on Weights & Biases: one run with a table of groups, one of pairs, the plot, and the sentences."""

from pathlib import Path
from typing import Any

from fluxflow_exp.compare.pairs import Comparison
from fluxflow_exp.run import wandb_report
from fluxflow_exp.run.wandb_report import Report, Table

GROUPS = ("group", "seeds", "mean", "half_width", "std")
PAIRS = ("reference", "other", "difference", "low", "high", "correction", "p_adjusted", "distinguishable", "sentence")


def send(comparison: Comparison, facts: dict[str, Any], folder: Path, project: str) -> str:
    """Send what `folder` holds; where it went. Offline, without a key or a network, it is written into `folder`."""
    question = comparison.question
    report = Report(
        name=f"{question.metric} by {question.by}",
        job_type="comparison",
        config={name: facts[name] for name in ("arguments", "by", "metric", "better", "budget", "confidence")},
        tables={
            "groups": Table(GROUPS, [_group(each) for each in facts["groups"]]),
            "pairs": Table(PAIRS, [_pair(each) for each in facts["pairs"]]),
        },
        images={"plot": folder / "comparison.png"},
        summary={
            "sentences": [each["sentence"] for each in facts["pairs"]],
            "notes": facts["notes"],
            **{f"mean/{each['name']}": each["mean"] for each in facts["groups"]},
        },
    )
    return wandb_report.send(report, folder, project=project)


def _group(facts: dict[str, Any]) -> list[Any]:
    return [facts["name"], len(facts["runs"]), facts["mean"], facts["half_width"], facts["std"]]


def _pair(facts: dict[str, Any]) -> list[Any]:
    low, high = facts["interval"] or (None, None)
    ends = [facts["reference"], facts["other"], facts["difference"], low, high]
    return [*ends, facts["correction"], facts["p_adjusted"], facts["distinguishable"], facts["sentence"]]
