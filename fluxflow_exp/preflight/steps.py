"""Checks of a stage's steps: numbers, players, parts, and the weights that they start from."""

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from fluxflow_exp.config.autoencoder import begins_trained, deterministic
from fluxflow_exp.config.compose import PARTS, instantiate
from fluxflow_exp.config.published import locate
from fluxflow_exp.config.schema import OF_BEST_POINT
from fluxflow_exp.errors import UserError, did_you_mean
from fluxflow_exp.evaluation.measures import ON_SCHEDULE
from fluxflow_exp.losses import terms
from fluxflow_exp.models import weights
from fluxflow_exp.models.facts import STEP_NAME
from fluxflow_exp.preflight import data, early_stop, finetune
from fluxflow_exp.preflight.idle import Idle
from fluxflow_exp.run import lookup


def problems(values: dict[str, Any]) -> list[str]:
    """One line for each thing wrong with the steps of a configuration whose frame is sound."""
    found: list[str] = []
    steps = values["stage"]["steps"]
    if not steps:
        found.append("the stage has no steps")
    made: set[str] = set()
    for name, step in steps.items():
        where = f"stage.steps.{name}"
        if not re.match(STEP_NAME, name):
            found.append(f"stage.steps: {name!r} names files: write letters, digits, - and _")
        found += data.problems(step["data"], values["data"], where) + _length(step, where, values)
        found += _numbers(step, where, values["hardware"], values["evaluation"])
        lines = finetune.other_model(step, values["model"]) or _parts(step, where, made, values)
        found += lines or finetune.problems(step, where, values) or _optimizers(step, where)
        trainer = locate(step["trainer"]["_target_"])
        for player in step["optimizers"]:
            made |= set(trainer.PLAYERS.get(player, ())) - set(step["freeze"])
    found += _best(values)
    if values.get("cache", {}).get("mode") == "on" and not any(
        locate(s["trainer"]["_target_"]).CACHES for s in steps.values()
    ):
        found.append(Idle("cache.mode=on: no step here trains on latents of frozen parts (a flow step does)"))
    conditioning = [step["trainer"].get("spade", "never") for step in steps.values() if _reconstructs(step)]
    if values["stage"]["spade"] and conditioning and set(conditioning) == {"never"}:
        found.append("stage.spade builds SPADE layers that no step trains: set trainer.spade=always in one of them")
    return found


def _length(step: dict[str, Any], where: str, values: dict[str, Any]) -> list[str]:
    """A length that is given twice."""
    own, run = step.get("minutes"), values.get("minutes")
    if own is not None and run is not None:
        return [f"minutes={run:g} is for the whole run, and {where}.minutes={own:g} for a step: give one of them"]
    if (own is not None or run is not None) and step.get("max_updates") is not None:
        key = f"{where}.minutes" if own is not None else "minutes"
        return [f"{key} and {where}.max_updates={step['max_updates']} both say when the step ends: give one of them"]
    return []


def _numbers(step: dict[str, Any], where: str, hardware: dict[str, Any], evaluation: dict[str, Any]) -> list[str]:
    found = []
    kind = locate(step["trainer"]["_target_"]).MICRO_BATCH
    micro, ranks = hardware["micro_batch"][kind], hardware["devices"] * hardware["slurm"]["nodes"]
    each, rest = divmod(step["batch_size"], ranks)
    if rest:
        found.append(
            f"{where}.batch_size={step['batch_size']} does not divide by {ranks} ranks (hardware.devices x nodes)"
        )
    elif micro not in (None, "auto") and (type(micro) is not int or micro < 1):
        found.append(f"hardware.micro_batch.{kind} is a number of images or auto, not {micro!r}")
    elif micro not in (None, "auto") and each % micro and micro < each:
        share = f", {each} a rank," if ranks > 1 else ""
        found.append(
            f"{where}.batch_size={step['batch_size']}{share} is not a multiple of hardware.micro_batch.{kind}={micro}"
        )
    unasked = {f"val_{name}" for name in ON_SCHEDULE} - {f"val_{name}" for name in evaluation.get("metrics", ["psnr"])}
    trainer = locate(step["trainer"]["_target_"])
    known = trainer.METRICS
    try:
        known = known | terms.names(_own_losses(step["trainer"]), taken=known, given=trainer.GIVES)
    except UserError as error:
        found.append(f"{where}.{error}")
    watched = step["transition_on"]["metric"]
    if watched in known and watched in unasked:
        found.append(f"{where}.transition_on.metric={watched} is measured with {watched[4:]} in evaluation.metrics")
    else:
        known = {name: loss for name, loss in known.items() if name not in unasked}
    lines = early_stop.problems(step["transition_on"], known, step["trainer"])
    found += [f"{where}.transition_on: {line}" for line in lines]
    return found


def _best(values: dict[str, Any]) -> list[str]:
    """A best point that is asked for, and that the last step will not have."""
    choice = values["publish"].get("weights")
    if choice not in OF_BEST_POINT or not values["stage"]["steps"]:
        return []
    name, step = list(values["stage"]["steps"].items())[-1]
    if step["trainer"].get("adversarial"):
        return [
            f"publish.weights={choice}: step {name} has an adversarial loss, with which pictures sharpen while the "
            "held-out loss rises: say publish.weights=last"
        ]
    if values["evaluation"]["every_epochs"] is None:
        return [f"publish.weights={choice} goes by the held-out loss: set evaluation.every_epochs"]
    return []


def _own_losses(trainer: dict[str, Any]) -> dict[str, Any]:
    """Losses by keys that the trainer's signature does not name. UserError: a number of one is wrong."""
    named, found = inspect.signature(locate(trainer["_target_"])).parameters, {}
    for key in [key for key in trainer if key != "_target_" and key not in named]:
        try:
            found[key] = instantiate(trainer[key])
        except ValueError as error:
            raise UserError(f"trainer.{key}: {error}") from error
    return found


def _optimizers(step: dict[str, Any], where: str) -> list[str]:
    """Let optimizers and schedulers themselves check their numbers, on a parameter of no use."""
    found = []
    for player, node in step["optimizers"].items():
        for key, build in (("optimizers", node), ("schedulers", step["schedulers"][player])):
            try:
                if key == "optimizers":
                    with _without_compiler():
                        made = instantiate(build)([("part.weight", torch.nn.Parameter(torch.zeros(2, 2)))])
                else:
                    instantiate(build)(made, updates=1)
            except ValueError as error:
                found.append(f"{where}.{key}.{player}: {str(error)[:1].lower()}{str(error)[1:]}")
                break
    return found


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Torch's optimizers import its compiler when they are built, which takes longer than all other checks."""
    decorated = Optimizer.add_param_group
    Optimizer.add_param_group = inspect.unwrap(decorated)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Optimizer.add_param_group = decorated  # type: ignore[method-assign]


def _parts(step: dict[str, Any], where: str, made: set[str], values: dict[str, Any]) -> list[str]:
    """Freeze lists, players, and where the parts that a step only uses come from."""
    trainer = locate(step["trainer"]["_target_"])
    found = [
        f"{where}.{key}: there is no part {part!r}{did_you_mean(part, PARTS)}. Parts: {', '.join(PARTS)}"
        for key in ("freeze", "unfreeze")
        for part in step[key]
        if part not in PARTS
    ]
    found += [f"{where}: {part} is in freeze and in unfreeze" for part in step["freeze"] if part in step["unfreeze"]]
    played = {part for player in step["optimizers"] for part in trainer.PLAYERS.get(player, ())}
    found += [
        Idle(
            f"{where}.unfreeze: this step trains no {part}, only {', '.join(sorted(played))}: give it an optimizer, "
            "or leave it out"
        )
        for part in step["unfreeze"]
        if part in PARTS and part not in played
    ]
    if step["cfg_dropout_prob"] and not trainer.CACHES:
        found.append(Idle(f"{where}.cfg_dropout_prob acts in flow steps alone: this one reads no captions"))
    if "text_encoder" in step["unfreeze"] and values["publish"]["text_encoder"] == "reference":
        found.append(f"{where}.unfreeze trains the text encoder, which publish.text_encoder=reference would not keep")
    dtype = values["model"]["text_encoder"].get("dtype", "float32")
    if "text_encoder" in step["unfreeze"] and dtype != "float32":
        found.append(
            f"{where}.unfreeze trains the text encoder, whose weights are {dtype}: set model.text_encoder.dtype=float32"
        )
    found += _losses(step["trainer"], where, values["model"])
    for group in ("optimizers", "schedulers"):
        found += [
            f"{where}.{group}: this step has no player {player!r}{did_you_mean(player, trainer.PLAYERS)}"
            for player in step[group]
            if player not in trainer.PLAYERS
        ]
    found += [
        f"{where}.schedulers.{player} is missing: the player has an optimizer"
        for player in step["optimizers"]
        if player not in step["schedulers"]
    ]
    if step["trainer"].get("adversarial") and "discriminator" not in step["optimizers"]:
        found.append(f"{where}.optimizers.discriminator is missing: the adversarial loss needs it")
    first = next(iter(trainer.PLAYERS))
    if set(trainer.PLAYERS[first]) <= set(step["freeze"]) or first not in step["optimizers"]:
        found.append(f"{where} trains nothing of {' and '.join(trainer.PLAYERS[first])}: see its freeze and optimizers")
    needs = [part for part in trainer.USES if part not in made]
    given = _given(step["init_from"], where, values["model"], found, needs)
    given |= {part for part in PARTS if begins_trained(values["model"][part])}
    uses, spread = trainer.USES, not deterministic(values["model"]["compressor"])
    if _reconstructs(step) and step["trainer"].get("kl") and not spread:
        found.append(f"{where}.trainer.kl acts on a distribution, and AutoencoderDC gives none: set it to null")
    if _reconstructs(step) and not step["trainer"].get("kl"):
        if "compressor" in step["freeze"]:
            uses = ("compressor",)
        elif spread:
            found.append(f"{where}.trainer.kl is missing: without it {where}.freeze must have the compressor")
    return found + _lacking([part for part in uses if part not in made | given], trainer, step, where)


def _lacking(parts: list[str], trainer: Any, step: dict[str, Any], where: str) -> list[str]:
    """Say where the trained `parts` that are not there can come from."""
    if not parts:
        return []
    needs, way = f"{where} needs a trained {' and '.join(parts)}", "init_from=RUN_FOLDER_OR_FILE"
    if trainer.FROM_PUBLISHED:
        here = f", which {step['init_from']} does not hold" if step["init_from"] else ""
        return [f"{needs}{here}: give {way} of a run with a flow step"]
    return [f"{needs}: put an autoencoder step before it (stage=full), or give {where}.{way}"]


def _reconstructs(step: dict[str, Any]) -> bool:
    """Whether the step is an autoencoder's."""
    return "kl" in locate(step["trainer"]["_target_"]).METRICS


def _losses(trainer: dict[str, Any], where: str, model: dict[str, Any]) -> list[str]:
    """Losses and a conditioning that lack what they act on."""
    adversarial = trainer.get("adversarial") or {}
    found: list[str] = [
        Idle(f"{where}.trainer.{loss} acts on a discriminator, and trainer.adversarial is off")
        for loss in ("feature_matching", "lecam")
        if trainer.get(loss) and not adversarial
    ]
    compares = any(trainer.get(key) for key in ("reconstruction", "frequency"))
    if adversarial and adversarial.get("adaptive", True) and not compares:
        found.append(f"{where}.trainer.adversarial.adaptive compares with a reconstruction loss: set it to false")
    if trainer.get("spade", "never") != "never" and not model["spade"]:
        found.append(f"{where}.trainer.spade needs SPADE layers: set stage.spade=true (or model.spade=true)")
    return found


def _given(source: str | None, where: str, model: dict[str, Any], found: list[str], needs: list[str]) -> set[str]:
    """The parts that `init_from` holds, all of them where that cannot be said; shapes are compared with the model's.

    For a file that is not there others are proposed that hold what the step `needs`.
    """
    if source is None:
        return set()
    path = Path(source).expanduser()
    try:
        holders = weights.find_parts(path)
    except ValueError as error:
        found.append(f"{where}.init_from: {_absent(path, needs) or error}")
        return set(PARTS)
    for part, holder in holders.items():
        wanted = weights.expected_shapes(model[part])
        have = weights.shapes(holder, part)
        differing = sorted(k for k in {*wanted, *have} if wanted.get(k) != have.get(k))
        if wanted and differing:
            key = differing[0]
            if key in weights.ASSETS:
                found.append(
                    f"{where}.init_from={source} holds another text encoder than model.text_encoder, or one that "
                    "reads captions otherwise: make it the same, or name the file of a step without one "
                    "(RUN/weights/STEP.safetensors)"
                )
                continue
            found.append(
                f"{where}.init_from={source}: {part} does not fit model={model['name']}: {part}.{key} is "
                f"{have.get(key, 'absent')} there and {wanted.get(key, 'absent')} here "
                f"({len(differing)} tensors differ)"
            )
    return set(holders)


def _absent(path: Path, needs: list[str]) -> UserError | None:
    """What is wrong with a path that is not there, or a folder that is no run; None: what it holds is wrong."""
    try:
        lookup.weights(path, parts=needs)
    except UserError as error:
        return error
    return None
