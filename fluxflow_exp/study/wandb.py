"""A study's answer on Weights & Biases, in one group with the study's runs: what a report is made of."""

from pathlib import Path
from typing import Any

from fluxflow_exp.config.schema import Tracking
from fluxflow_exp.run import wandb_report
from fluxflow_exp.run.wandb_report import Report, Table
from fluxflow_exp.study import plots, sentences
from fluxflow_exp.study.answer import StudyAnswer
from fluxflow_exp.study.pictures import FOLDER

DIFFERENCES = (
    "metric", "arm", "reference", "difference", "low", "high", "correction", "seeds", "verdict", "sentence",
)  # fmt: skip
ARMS = ("arm", "overrides", "parameters", "runs", "failed", "hours", "unit", "learning rate")


def send(answer: StudyAnswer, folder: Path, tracking: Tracking) -> str | None:
    """Send what `output.write` has left in `folder`; where it went, None with tracking off.

    Offline, without a key or a network, it is written into `folder`.
    """
    if tracking.mode == "off":
        return None
    images = {name: folder / FOLDER / file for name, file in (("forest", plots.FOREST), ("curves", plots.CURVES))}
    report = Report(
        name=f"{answer.name}: the answer",
        job_type="study",
        group=answer.name,
        config={"question": answer.question, "equal": answer.equal, "base": answer.base, "commands": answer.commands},
        tables={
            "differences": Table(DIFFERENCES, _differences(answer)),
            "arms": Table(ARMS, [_arm(answer, arm.name) for arm in answer.arms]),
            **_pictures(answer, folder),
        },
        images={name: path for name, path in images.items() if path.exists()},
        summary={"answer": " ".join(sentences.headline(answer)), "limits": sentences.limits(answer)},
    )
    offline = tracking.mode == "offline"
    return wandb_report.send(report, folder, project=tracking.project, entity=tracking.entity, offline=offline)


def _differences(answer: StudyAnswer) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for outcome in answer.outcomes:
        for arm in answer.arms[1:]:
            found = sentences.found_of(outcome, arm.name)
            numbers = [found.mean, found.low, found.high, found.correction] if found else [None] * 4
            count = sentences.seeds(found) if found else None
            ends = [sentences.verdict(outcome, found).text, sentences.sentence(answer, outcome, arm)]
            rows.append([outcome.metric, arm.name, answer.reference.name, *numbers, count, *ends])
    return rows


def _arm(answer: StudyAnswer, name: str) -> list[Any]:
    arm = answer.arm(name)
    rate = arm.learning_rate.chosen if arm.learning_rate else None
    cost = [arm.cost.runs, len(arm.failures), arm.cost.hours, arm.cost.unit]
    return [arm.name, " ".join(arm.overrides), arm.parameters, *cost, rate]


def _pictures(answer: StudyAnswer, folder: Path) -> dict[str, Table]:
    """A row a prompt, a column an arm; an arm without pictures has none."""
    found = answer.pictures
    if found is None:
        return {}
    arms = [arm.name for arm in answer.arms if all(arm.name in row.files for row in found.rows)]
    rows = [[row.prompt, *(folder / row.files[arm] for arm in arms)] for row in found.rows]
    return {"pictures": Table(("prompt", *arms), rows)}
