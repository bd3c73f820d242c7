"""Checks of a step that goes on from published weights: these, what is asked of an adapter, and the objective."""

from pathlib import Path
from typing import Any

from fluxflow_exp.config.published import locate
from fluxflow_exp.models import lora, weights
from fluxflow_exp.preflight.idle import idle_problems


def problems(step: dict[str, Any], where: str, values: dict[str, Any]) -> list[str]:
    """One line for each thing wrong; none for a step of another trainer."""
    if not locate(step["trainer"]["_target_"]).FROM_PUBLISHED:
        return []
    found = _adapter(step, f"{where}.trainer", values)
    if step["init_from"] is None:
        return [*found, f"{where} goes on from published weights: give init_from=RUN_FOLDER_OR_FILE"]
    try:
        holders = weights.find_parts(Path(step["init_from"]).expanduser())
        facts = weights.read_facts(holders["flow_processor"]) if "flow_processor" in holders else None
    except ValueError:
        return found  # said where the file is looked into
    if facts is None:
        return found  # said with the parts that it lacks
    for part in dict.fromkeys(("compressor", "expander", "flow_processor", *holders)):
        asked, there = values["model"][part], facts["model"].get(part) or {}
        differing = sorted(key for key in asked if key in there and there[key] != asked[key])
        if part in holders and part != "text_encoder" and differing:
            key = differing[0]
            found.append(
                f"model.{part}.{key} is {asked[key]!r}, and {holders[part]} was trained with {there[key]!r}: leave "
                "model=… out, and it is the file's"
            )
    return found + _objective(step, f"{where}.trainer.objective", facts["flow"])


def _adapter(step: dict[str, Any], where: str, values: dict[str, Any]) -> list[str]:
    trainer = step["trainer"]
    given = {f"{where}.{key}": trainer.get(key) for key in ("lora_alpha", "lora_targets")}
    rank = trainer.get("lora_rank")
    found = idle_problems(given, acts=rank is not None, needs=f"{where}.lora_rank")
    if rank is None:
        return found
    if not lora.installed():
        return [*found, f"{where}.lora_rank: {lora.LACKING}"]
    if values["publish"].get("weights") == "best":
        found.append("publish.weights=best: the best point of an adapter is not published: say publish.weights=last")
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
