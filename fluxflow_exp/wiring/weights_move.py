"""The traces of updates: trained parts move, frozen ones do not, averages follow, rates keep to their schedules."""

from typing import Any

import torch
from torch import Tensor, nn

from fluxflow_exp.config.compose import instantiate
from fluxflow_exp.step_plan import idle_players
from fluxflow_exp.trainers.base import Trainer
from fluxflow_exp.wiring.check import Check
from fluxflow_exp.wiring.other_values import replaced
from fluxflow_exp.wiring.toy_trainer import ToyTrainer, advance, digest

State = dict[str, Tensor]
OTHER_CAPTION = "something else"


def checks(toy: ToyTrainer) -> list[Check]:
    trainer, batches = toy.build(toy.config), toy.batches(toy.config)
    played = {part: module for player in trainer.players.values() for part, module in player.parts.items()}
    before = {part: _copy(module) for part, module in {**trainer.setup.parts, **played}.items()}
    bases = {part: _copied(adapter.base()) for part, adapter in trainer.setup.adapters.items()}
    rates: dict[str, list[float]] = {name: [player.rate()] for name, player in trainer.players.items()}
    for turn, index in enumerate(toy.updates):
        trainer.update_index = index
        playing = {player.name for each in trainer.phases() for player in each.players}
        advance(trainer, batches[turn % len(batches)], index)
        for name in playing:
            rates[name].append(trainer.players[name].rate())
    return [
        *_players(toy, trainer, before),
        *_still(toy, trainer, before),
        *_bases(toy, trainer, bases),
        *_averages(toy, trainer, before),
        *(_rate(toy, trainer, name, followed) for name, followed in rates.items()),
        *_captions(toy, trainer),
    ]


def _copy(module: nn.Module) -> State:
    return _copied(module.state_dict())


def _copied(state: State) -> State:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _players(toy: ToyTrainer, trainer: Trainer, before: dict[str, State]) -> list[Check]:
    """Every optimizer that is configured moves each of its parts."""
    found = []
    step = toy.config.stage.steps[toy.step]
    idle = idle_players(step, toy.config.model)
    for name in step.optimizers:
        player = trainer.players.get(name)
        if player is None and name in idle:
            continue  # pretrained, and still
        if player is None:
            found.append(Check(toy.step, f"optimizer of {name} moves its parts", False, "it has nothing to train"))
            continue
        moved = {
            part: [not torch.equal(p, before[part][n]) for n, p in module.named_parameters()]
            for part, module in player.parts.items()
        }
        note = ", ".join(f"{part}: {sum(tensors)} of {len(tensors)} tensors" for part, tensors in moved.items())
        passed = all(any(tensors) for tensors in moved.values())
        found.append(Check(toy.step, f"optimizer of {name} moves its parts", passed, note))
    return found


def _still(toy: ToyTrainer, trainer: Trainer, before: dict[str, State]) -> list[Check]:
    """Parts that no player has are what they were."""
    trained = {part for player in trainer.players.values() for part in player.parts}
    found = []
    for part in sorted(set(before) - trained):
        after = trainer.setup.parts[part].state_dict()
        moved = [name for name, tensor in before[part].items() if not torch.equal(tensor, after[name])]
        note = f"{len(moved)} tensors changed, e.g. {moved[0]}" if moved else f"{len(after)} tensors"
        found.append(Check(toy.step, f"frozen {part} stays", not moved, note))
    return found


def _bases(toy: ToyTrainer, trainer: Trainer, bases: dict[str, State]) -> list[Check]:
    """What an adapter was put into is what it was."""
    found = []
    for part, before in bases.items():
        after = trainer.setup.adapters[part].base()
        moved = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
        note = f"{len(moved)} tensors changed, e.g. {moved[0]}" if moved else f"{len(after)} tensors"
        found.append(Check(toy.step, f"{part} stays beside its adapter", not moved, note))
    return found


def _averages(toy: ToyTrainer, trainer: Trainer, before: dict[str, State]) -> list[Check]:
    """Averages have left the first weights and are not the present ones."""
    if toy.config.stage.steps[toy.step].ema is None:
        return []
    averaged = {name: player.ema for name, player in trainer.players.items() if player.ema}
    if not averaged:
        return [Check(toy.step, "EMA moves", False, "ema is configured, and no player has averages")]
    found = []
    for name, ema in averaged.items():
        pairs = [
            (average[key], before[part][key], dict(ema.modules[part].named_parameters())[key])
            for part, average in ema.average.items()
            for key, _ in ema.modules[part].named_parameters()
        ]
        moved = sum(not torch.equal(average, first) for average, first, _ in pairs)
        differs = sum(not torch.equal(average, raw) for average, _, raw in pairs)
        note = f"{moved} of {len(pairs)} tensors moved, {differs} differ from the raw ones"
        found.append(Check(toy.step, f"EMA of {name} moves", bool(moved and differs), note))
    return found


def _rate(toy: ToyTrainer, trainer: Trainer, name: str, followed: list[float]) -> Check:
    """The learning rate after each update is what the schedule alone would make it."""
    step = toy.config.stage.steps[toy.step]
    horizon = trainer.length.updates - trainer.starts_at(name)
    wanted = curve(step.schedulers[name], step.optimizers[name]["lr"], horizon, len(followed) - 1)
    passed = followed == wanted
    note = f"{followed[0]:.3g} to {followed[-1]:.3g} in {len(followed) - 1} updates"
    return Check(
        toy.step, f"learning rate of {name} follows its schedule", passed,
        note if passed else f"{note}; the schedule ends at {wanted[-1]:.3g}",
    )  # fmt: skip


def curve(node: dict[str, Any], lr: float, horizon: int, count: int) -> list[float]:
    """The learning rates before and after each of `count` updates that the schedule `node` gives."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = instantiate(node)(optimizer, updates=horizon)
    found = [float(optimizer.param_groups[0]["lr"])]
    for _ in range(count):
        optimizer.step()
        schedule.step()
        found.append(float(optimizer.param_groups[0]["lr"]))
    return found


def _captions(toy: ToyTrainer, trainer: Trainer) -> list[Check]:
    """Where a text encoder is used, captions change an update, and none does that is dropped."""
    if "text_encoder" not in trainer.setup.parts:
        return []
    kept, dropped = (_caption_matters(toy, share) for share in (0.0, 1.0))
    found = [Check(toy.step, "captions reach the model", kept, "other captions give other weights")]
    if toy.config.stage.steps[toy.step].cfg_dropout_prob > 0:
        note = "with all captions dropped, other captions give " + ("other weights" if dropped else "the same weights")
        found.append(Check(toy.step, "caption dropout reaches the model", not dropped, note))
    return found


def _caption_matters(toy: ToyTrainer, share: float) -> bool:
    """Whether an update depends on captions when this share of them is dropped."""
    config = replaced(toy.config, f"stage.steps.{toy.step}.cfg_dropout_prob", share)
    batch = toy.batches(config)[0]
    digests = set()
    for captions in (batch.captions, [OTHER_CAPTION] * len(batch.captions)):
        trainer = toy.build(config)
        advance(trainer, batch._replace(captions=captions), toy.updates[0])
        digests.add(digest(trainer))
    return len(digests) > 1
