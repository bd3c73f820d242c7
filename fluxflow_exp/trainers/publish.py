"""From a finished step to files that others can load."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from fluxflow_exp.config.autoencoder import without_folder
from fluxflow_exp.config.schema import RunConfig
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import sharding
from fluxflow_exp.models import lora, weights
from fluxflow_exp.models.facts import moment
from fluxflow_exp.monitor.verdict import rate_left, verdict
from fluxflow_exp.run import digest_list
from fluxflow_exp.run.checkpoint import CheckpointStore
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import read_rows
from fluxflow_exp.trainers.base import Trainer
from fluxflow_exp.trainers.best import Weights
from fluxflow_exp.trainers.context import StepContext

LAST_SHARE = 0.75  # of interpolated weights (docs/benchmarks/styles.md, "Half an hour, and learning by heart")


def publish_step(setup: StepContext, trainer: Trainer, config: RunConfig) -> None:
    """Write `<step>.raw.safetensors`, then `<step>.safetensors` with averaged weights.

    Parts of another run that the step only uses are in them too: this run's files must be enough to generate. So are
    those that an adapter was trained for, with it merged; alone it is in `<step>.lora.safetensors`.
    """
    parts = {part: setup.parts[part] for player in trainer.players.values() for part in player.parts}
    parts |= {part: setup.parts[part] for part in setup.given if part not in parts}
    if "text_encoder" in setup.parts and config.publish.text_encoder == "embed":
        parts.setdefault("text_encoder", setup.parts["text_encoder"])
    facts = {
        "index": setup.index,
        "model": {key: without_folder(node) for key, node in asdict(config.model).items() if key != "autoencoder"},
        "trained": dict.fromkeys(parts, setup.name),
        "text_encoder": config.publish.text_encoder,
        "img_size": setup.data.img_size,
        "downscale": setup.parts["compressor"].downscale,
        "flow": trainer.facts(),
    }
    if not setup.ranks.first and not trainer.sharded:
        return
    raw = _states(parts, setup.adapters)
    with trainer.averaged():
        averaged = _states(parts, setup.adapters, copy=True)
        adapted = {part: _on_cpu(adapter.state_dict()) for part, adapter in setup.adapters.items()}
    if setup.ranks.first:
        paths = [setup.folder.weights / f"{setup.name}{kind}.safetensors" for kind in (".raw", "")]
        digest_list.forget(setup.folder, *paths)
        weights.publish(paths[0], raw, {**facts, "kind": "raw"})
        weights.publish(paths[1], averaged, {**facts, "kind": "ema"})
        if adapted:
            path = setup.folder.weights / f"{setup.name}{lora.SUFFIX}"
            digest_list.forget(setup.folder, path)
            lora.publish(path, adapted, trainer.adapter_facts())


def finish_step(
    setup: StepContext, trainer: Trainer, final: dict[str, float], *, peaks: Sequence[float | None]
) -> None:
    """Enter a finished step in the run's record; from then on it is loaded, not trained.

    `peaks`: GiB at the peak of each rank's GPU.
    """
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
        "peak_gib": peaks[0],
        **({"peak_gib_by_rank": list(peaks)} if len(peaks) > 1 else {}),
        **({"before": trainer.before} if trainer.before else {}),
        "final": final,
        **({"ended_by": trainer.ended_by} if trainer.ended_by else {}),
        **_judged(setup, trainer),
        **_standing(setup),
    }
    setup.folder.write_record(record)


def _judged(setup: StepContext, trainer: Trainer) -> dict[str, Any]:
    """Return the best point of a step, and the verdict on its length, which is said."""
    if trainer.best is None:
        return {}
    rows = read_rows(setup.folder.metrics(setup.name))
    metric = next(iter(trainer.held_out))  # the one that a plateau follows
    points = [(row["global_step"], row["metrics"].get(metric)) for row in rows if row["kind"] == "held_out"]
    begun = [(0, trainer.before[metric])] if metric in trainer.before else []
    known = begun + [(update, value) for update, value in points if value is not None]
    rate = rate_left([row["learning_rates"] for row in rows if row["kind"] == "train"])
    said = verdict(known or [trainer.best[:2]], metric=metric, rate=rate)
    setup.console.say(f"Step {setup.name}: {said}")
    return {"best": {"update": trainer.best.update, "metric": metric, "value": trainer.best.loss}, "verdict": said}


def _standing(setup: StepContext) -> dict[str, str]:
    """Return where the step lies beside reference runs, which is said; nothing if it is similar to none."""
    said = setup.standing.summary(read_rows(setup.folder.metrics(setup.name))) if setup.standing else ""
    if said:
        setup.console.say(said)
    return {"standing": said} if said else {}


def publish_final(folder: RunFolder, steps: list[str], *, choice: str) -> None:
    """Write `final.safetensors`: the newest averaged weights of every part but the discriminator.

    With the `choice` best, what the last of `steps` trained is as it was at that step's best point; interpolated, it
    lies between that and its end (Wortsman et al. 2022, arXiv 2109.01903). Parts that an earlier step trained are as
    ever: the last one has got to know them as they were at their end.
    """
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
    best = _best_update(folder, steps[-1], choice)
    if best:
        there = _best_weights(folder, steps[-1], best[steps[-1]], choice)
        share = _last_share(choice)
        states |= there if share is None else {part: _between(there[part], states[part], share) for part in there}
        facts = {**facts, "best": best, "last_share": share}
    final = folder.weights / "final.safetensors"
    digest_list.forget(folder, final)
    weights.publish(final, states, {**facts, "trained": trained, "flow": flow})


def follow_choice(folder: RunFolder, steps: list[str], *, choice: str) -> str | None:
    """Write the `final.safetensors` of a finished run anew if it holds another choice; return what it holds then."""
    final = folder.weights / "final.safetensors"
    try:
        facts = weights.read_facts(final)
    except ValueError:
        return None  # it is damaged, which verify tells
    best = _best_update(folder, steps[-1], choice)
    if facts.get("best", {}) == best and facts.get("last_share") == (_last_share(choice) if best else None):
        same = choice != "last" and not best
        return f"publish.weights={choice}: the best point of step {steps[-1]} is its end" if same else None
    publish_final(folder, steps, choice=choice)
    return f"{final} has step {steps[-1]} {moment(weights.read_facts(final), steps[-1])}"


def _best_update(folder: RunFolder, step: str, choice: str) -> dict[str, int]:
    """Step → the update of its best point if that is to be published and is not its last one."""
    if choice == "last":
        return {}
    entry = folder.read_record()["steps"][step]
    if "best" not in entry:
        raise UserError(f"publish.weights={choice}: no best point of step {step} was kept; say publish.weights=last")
    update = int(entry["best"]["update"])
    return {step: update} if update < entry["updates"] else {}


def _last_share(choice: str) -> float | None:
    return LAST_SHARE if choice == "interpolated" else None


def _between(best: weights.State, last: weights.State, share: float) -> weights.State:
    """`share` of `last` and the rest of `best`; whole numbers are those of `last`."""
    return {k: best[k].lerp(t, share) if t.is_floating_point() else t for k, t in last.items()}


def _best_weights(folder: RunFolder, step: str, update: int, choice: str) -> Weights:
    """UserError: the step's last checkpoint, which holds its best point, is not whole."""
    store = CheckpointStore(folder.checkpoints)
    newest: Path | None = store.newest(step)
    best = store.load(newest)["best"] if newest else None
    if best is None or best["update"] != update:
        raise UserError(
            f"publish.weights={choice}: update {update} of step {step} is in that step's last checkpoint, and "
            f"{folder.checkpoints} has none of it that is whole: bring it back, or say publish.weights=last"
        )
    found: Weights = best["weights"]
    return found


def _flow_of(path: Any) -> Any:
    return weights.read_facts(path)["flow"]


def _states(parts: dict[str, nn.Module], adapters: dict[str, lora.Adapter], *, copy: bool = False) -> Weights:
    """Whole tensors, of what is sharded on the first rank; `copy` on the CPU, for weights that are about to change."""
    plain = {part: adapters[part].merged() if part in adapters else m.state_dict() for part, m in parts.items()}
    states: Weights = sharding.gathered(plain)
    return {part: _on_cpu(state) for part, state in states.items()} if copy else states


def _on_cpu(state: weights.State) -> weights.State:
    return {k: v.cpu().clone() for k, v in state.items()}
