"""How often a step is looked at, where a configuration leaves that to this program ("auto")."""

from dataclasses import asdict, replace
from typing import Any

from fluxflow_exp.config import published
from fluxflow_exp.config.compose import typed
from fluxflow_exp.config.published import TARGET
from fluxflow_exp.config.schema import Evaluation, RunConfig, Step
from fluxflow_exp.errors import counted
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.kept_numbers import kept
from fluxflow_exp.step_length import LEAST, Length

PLATEAU = "fluxflow_exp.schedules.plateau"
LOOKS = ("evaluation", "samples")
OFTEN = 20  # updates between looks at the model, below which looking takes longer than training


def begun_with(config: RunConfig, folder: RunFolder) -> RunConfig:
    """`config` with the numbers with which the run in `folder` began where it asks for none: that run goes on so."""
    return typed(kept(asdict(config), folder.frozen())) if folder.config.exists() else config


def evaluation(config: RunConfig, step: Step) -> Evaluation:
    """The section as it is for `step`.

    What counts evaluations (a rule that may end the step, a schedule that follows a metric) has one at each epoch.
    """
    counted = step.transition_on.metric or any(map(_follows_metrics, step.schedulers.values()))
    every = 1 if counted and config.evaluation.every_epochs == "auto" else config.evaluation.every_epochs
    return replace(config.evaluation, every_epochs=every)


def lines(config: RunConfig, step: Step, length: Length) -> list[str]:
    """What the plan says of a step that is not looked at after each of its epochs because of "auto"."""
    asked = {"evaluation": evaluation(config, step).every_epochs, "pictures": config.samples.every_epochs}
    what = " and ".join(name for name, every in asked.items() if every == "auto")
    if not what or length.auto == 1:
        return []
    often = f"every {length.auto} epochs" if length.auto else f"{LEAST} times in {length.epochs} epochs"
    return [f"    {what}: {often}"]


def short_epochs(config: RunConfig, step: Step, length: Length) -> list[str]:
    """Where a few new pictures are the data, epochs are short: what happens at their ends takes longer than they do."""
    if not published.locate(step.trainer[TARGET]).FROM_PUBLISHED:
        return []
    epochs = {f"{name}.every_epochs": getattr(config, name).every_epochs for name in LOOKS}
    asked = {key: every for key, every in epochs.items() if isinstance(every, int)}
    often = [key for key, every in asked.items() if every * length.updates_per_epoch < OFTEN]
    if not often or length.updates < OFTEN:
        return []
    return [
        f"    note: an epoch is {counted(length.updates_per_epoch, 'update')}: give "
        f"{' '.join(f'{key}=auto' for key in often)}, "
        "or more time goes into pictures and evaluation than into training"
    ]


def _follows_metrics(node: dict[str, Any]) -> bool:
    """Whether a schedule may hang on evaluations: a plateau does, and one of the user's own may."""
    return node[TARGET] == PLATEAU or not published.is_published(node[TARGET], "scheduler")
