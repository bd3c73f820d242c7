"""Checks of what a flow step's blocks are aligned with: each other, or a trained image model, which judges nothing."""

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
