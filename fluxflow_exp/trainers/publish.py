"""From a finished step to files that others can load."""

from dataclasses import asdict
from typing import Any

from torch import nn

from fluxflow_exp.config.schema import RunConfig
from fluxflow_exp.machine import sharding
from fluxflow_exp.models import weights
from fluxflow_exp.run import digest_list
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.trainers.base import Trainer
from fluxflow_exp.trainers.context import StepContext


def publish_step(setup: StepContext, trainer: Trainer, config: RunConfig) -> None:
    """Write `<step>.raw.safetensors`, then `<step>.safetensors` with averaged weights.

    Parts of another run that the step only uses are in them too: this run's files must be enough to generate.
    """
    parts = {part: m for player in trainer.players.values() for part, m in player.parts.items()}
    parts |= {part: setup.parts[part] for part in setup.given if part not in parts}
    if "text_encoder" in setup.parts and config.publish.text_encoder == "embed":
        parts.setdefault("text_encoder", setup.parts["text_encoder"])
    facts = {
        "index": setup.index,
        "model": asdict(config.model),
        "trained": dict.fromkeys(parts, setup.name),
        "text_encoder": config.publish.text_encoder,
        "img_size": setup.data.img_size,
        "downscale": setup.parts["compressor"].downscale,
        "flow": trainer.facts(),
    }
    if not setup.ranks.first and not trainer.sharded:
        return
    raw = _states(parts)
    with trainer.averaged():
        averaged = _states(parts, copy=True)
    if setup.ranks.first:
        paths = [setup.folder.weights / f"{setup.name}{kind}.safetensors" for kind in (".raw", "")]
        digest_list.forget(setup.folder, *paths)
        weights.publish(paths[0], raw, {**facts, "kind": "raw"})
        weights.publish(paths[1], averaged, {**facts, "kind": "ema"})


def finish_step(setup: StepContext, trainer: Trainer, final: dict[str, float]) -> None:
    """Enter a finished step in the run's record; from then on it is loaded, not trained."""
    record = setup.folder.read_record()
    length, seconds = trainer.length, trainer.seconds
    images = length.updates * length.batch_size
    record["steps"][setup.name] = {
        "epochs": length.epoch(length.updates),
        "updates": length.updates,
        "images": images,
        "micro_batch": trainer.accumulation.micro_batch,
        "seconds": round(seconds, 3),
        "images_per_second": round(images / seconds, 2) if seconds else None,
        "parameters": {part: sum(p.numel() for p in module.parameters()) for part, module in setup.parts.items()},
        "peak_gib": setup.machine.peak_gib(),
        "final": final,
        **({"ended_by": trainer.ended_by} if trainer.ended_by else {}),
    }
    setup.folder.write_record(record)


def publish_final(folder: RunFolder, steps: list[str]) -> None:
    """Write `final.safetensors`: the newest averaged weights of every part but the discriminator."""
    holders = weights.find_parts(folder.path, steps=steps)
    holders.pop("discriminator", None)
    states, trained = {}, {}
    facts: dict[str, Any] = {}
    for part, path in holders.items():
        states[part] = weights.read_part(path, part)
        found = weights.read_facts(path)
        trained[part] = found["trained"][part]
        if found["index"] >= facts.get("index", 0):
            facts = found
    flow = next((f for f in map(_flow_of, holders.values()) if f), None)
    final = folder.weights / "final.safetensors"
    digest_list.forget(folder, final)
    weights.publish(final, states, {**facts, "trained": trained, "flow": flow})


def _flow_of(path: Any) -> Any:
    return weights.read_facts(path)["flow"]


def _states(parts: dict[str, nn.Module], *, copy: bool = False) -> dict[str, weights.State]:
    """Whole tensors, also of what is sharded; `copy` on the CPU, for weights that are about to change."""
    states: dict[str, weights.State] = sharding.whole({part: m.state_dict() for part, m in parts.items()})
    if not copy:
        return states
    return {part: {k: v.cpu().clone() for k, v in state.items()} for part, state in states.items()}
