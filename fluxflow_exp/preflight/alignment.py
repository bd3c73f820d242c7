"""Checks of what a flow step's blocks are aligned with: each other, or a trained image model, which judges nothing; and
of what else it is told."""

import inspect
from typing import Any

from torch import nn

from fluxflow_exp.config.compose import instantiate
from fluxflow_exp.errors import UserError
from fluxflow_exp.evaluation import features
from fluxflow_exp.evaluation.measures import EFFICIENTNET, MEASURES, SETS
from fluxflow_exp.models.patch_encoder import PatchEncoder, fingerprint


def problems(step: dict[str, Any], where: str, outlines: dict[str, nn.Module], evaluation: dict[str, Any]) -> list[str]:
    """One line for each alignment of a step that cannot be. A teacher is loaded, so that nothing of it fails later."""
    found = []
    flow = outlines.get("flow_processor")
    for key in ("self_alignment", "repa"):
        node = step["trainer"].get(key)
        if not node or flow is None:
            continue
        try:
            loss = instantiate(node)
            loss.blocks(flow)
            if key == "repa":
                _check_judge(loss.teacher(), evaluation)
        except ValueError as error:
            found.append(f"{where}.trainer.{key}: {error}")
    if step["trainer"].get("augmentation") and flow is not None:
        found += [f"{where}.trainer.augmentation: {line}" for line in _augmentation(step["trainer"], flow)]
    return found


def _augmentation(trainer: dict[str, Any], flow: nn.Module) -> list[str]:
    found = ["a teacher sees pictures unchanged: leave out this or repa"] if trainer.get("repa") else []
    if "extra" not in inspect.signature(flow.forward).parameters or not hasattr(flow, "width"):
        name = type(flow).__name__
        found.append(f"{name} cannot be told how a picture is changed: its forward takes no extra, or it has no width")
    return found


def _check_judge(teacher: PatchEncoder, evaluation: dict[str, Any]) -> None:
    """UserError: the teacher is the network of `evaluation.features`, and something is measured in it."""
    judge = evaluation.get("features", EFFICIENTNET)
    measured = [name for name in evaluation.get("metrics") or [] if name in SETS and MEASURES[name].features]
    if measured and fingerprint(features.load(judge).model) == fingerprint(teacher.model):
        raise UserError(
            f"its teacher is what evaluation.features={judge} names, in which {', '.join(measured)} would be measured: "
            "a run is not judged by what it was taught with. Give another evaluation.features, or another teacher"
        )
