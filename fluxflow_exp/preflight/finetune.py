"""Checks of a step that goes on from published weights: these, what is asked of an adapter, and the objective."""

from pathlib import Path
from typing import Any

from fluxflow_exp.config.published import locate
from fluxflow_exp.config.schema import OF_BEST_POINT
from fluxflow_exp.models import lora, weights
from fluxflow_exp.preflight.idle import idle_problems


def other_model(step: dict[str, Any], model: dict[str, Any]) -> list[str]:
    """One line if the model that is asked for is not that of the weights which the step goes on from."""
    for part, holder in _holders(step).items():
        there = weights.read_facts(holder)["model"].get(part) or {}
        differing = sorted(key for key in model[part] if key in there and there[key] != model[part][key])
        if differing and part != "text_encoder":  # which may lie elsewhere now
            key = differing[0]
            return [
                f"model={model['name']} has model.{part}.{key}={model[part][key]!r}, and {holder} was trained with "
                f"{there[key]!r}: leave model=… out, and it is the file's"
            ]
    return []


def problems(step: dict[str, Any], where: str, values: dict[str, Any]) -> list[str]:
    """One line for each thing else that is wrong; none for a step of another trainer."""
    if not locate(step["trainer"]["_target_"]).FROM_PUBLISHED:
        return []
    found = _adapter(step, f"{where}.trainer", values)
    holder = _holders(step).get("flow_processor")
    flow = weights.read_facts(holder)["flow"] if holder else None
    return found + _objective(step, f"{where}.trainer.objective", flow)


def _holders(step: dict[str, Any]) -> dict[str, Path]:
    """The files that a step goes on from, by part; none where that is another trainer's, or said elsewhere."""
    if step["init_from"] is None or not locate(step["trainer"]["_target_"]).FROM_PUBLISHED:
        return {}
    try:
        return weights.find_parts(Path(step["init_from"]).expanduser())
    except ValueError:
        return {}


def _adapter(step: dict[str, Any], where: str, values: dict[str, Any]) -> list[str]:
    trainer = step["trainer"]
    given = {f"{where}.{key}": trainer.get(key) for key in ("lora_alpha", "lora_targets")}
    rank = trainer.get("lora_rank")
    found = idle_problems(given, acts=rank is not None, needs=f"{where}.lora_rank")
    if rank is None:
        return found
    if not lora.installed():
        return [*found, f"{where}.lora_rank: {lora.LACKING}"]
    choice = values["publish"].get("weights")
    if choice in OF_BEST_POINT:
        found.append(
            f"publish.weights={choice}: the best point of an adapter is not published: say publish.weights=last"
        )
    if values["hardware"].get("parallel") == "fsdp":
        found.append(f"{where}.lora_rank: hardware.parallel=fsdp spreads what is trained whole: set it to ddp")
    targets = trainer.get("lora_targets") or lora.TARGETS
    for part in ("flow_processor", "text_encoder"):
        node = values["model"][part]
        if part not in _trained(step) or getattr(locate(node["_target_"]), "pretrained", False):
            continue
        if not lora.layers(part, weights.outline(node), targets):
            found.append(
                f"{where}.lora_targets: {', '.join(targets)} match no linear layer of {part}, which is trained: "
                f"add {part}.*"
            )
    return found


def _trained(step: dict[str, Any]) -> list[str]:
    players = locate(step["trainer"]["_target_"]).PLAYERS
    return [part for name in step["optimizers"] for part in players[name] if part not in step["freeze"]]


def _objective(step: dict[str, Any], where: str, flow: dict[str, Any] | None) -> list[str]:
    """Another objective or shift than the model was trained with."""
    node = step["trainer"]["objective"]
    name, shift = getattr(locate(node["_target_"]), "name", None), node.get("shift", 1.0)
    if flow is None or (name, shift) == (flow["objective"], flow["shift"]):
        return []
    if name != flow["objective"]:
        way = f"add +loss@{where}=v_prediction" if flow["objective"] == "v_prediction" else f"leave out loss@{where}"
        return [f"{where} is {name}, and the weights were trained with {flow['objective']}: {way}"]
    return [f"{where}.shift={shift:g}, and the weights were trained with {flow['shift']:g}: give that"]
