"""Which parts each term of a loss reaches, and by what weights terms are summed."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fluxflow_exp.data.loader import Batch
from fluxflow_exp.losses.terms import Terms
from fluxflow_exp.trainers.base import Trainer
from fluxflow_exp.wiring.check import Check
from fluxflow_exp.wiring.toy_trainer import ToyTrainer, advance

Weighed = dict[str, list[float]]  # term → its weight in one update after another
LOGIT_SHIFTS = (-5.0, 5.0)  # so that a discriminator takes every image for real, or none


def checks(toy: ToyTrainer) -> list[Check]:
    """Every declared loss reaches exactly the parts that it names, with a weight that is not 0 or negative."""
    trainer = toy.build(toy.config)
    found: dict[str, set[str]] = {}
    for batch, index in _updates(toy):
        for term, parts in reached(trainer, batch, index).items():
            found[term] = found.get(term, set()) | parts
        advance(trainer, batch, index)
    trained = {part for player in trainer.players.values() for part in player.parts}
    weighed = _weighed(toy)
    losses = {key for key, node in toy.config.stage.steps[toy.step].trainer.items() if _is_loss(key, node)}
    return [
        *(_reach(toy, trainer, term, parts, trained) for term, parts in found.items()),
        *(_summed(toy, loss, trainer, set(found), weighed) for loss in sorted(losses)),
        _weights(toy, weighed),
    ]


def reached(trainer: Trainer, batch: Batch, index: int) -> dict[str, set[str]]:
    """Term → parts whose parameters get a gradient from it alone in update `index`."""
    found: dict[str, set[str]] = {}
    modules = trainer.setup.parts
    for terms, weights in _phases(trainer, batch, index):
        for name in weights:
            for module in modules.values():
                module.zero_grad(set_to_none=True)
            if terms[name].requires_grad:
                terms[name].sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
            found[name] = {
                part
                for part, module in modules.items()
                if any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in module.parameters())
            }
    for module in modules.values():
        module.zero_grad(set_to_none=True)
    return found


def _phases(trainer: Trainer, batch: Batch, index: int) -> Iterator[tuple[Terms, dict[str, float | Tensor]]]:
    """Terms and weights of each phase of update `index`, in one micro-batch, with the phase's parameters trainable."""
    trainer.update_index = index
    images = trainer.inputs(batch)
    trainer.begin_update(batch)
    for phase in trainer.phases():
        with phase.training():
            phase.begin()
            (micro,) = trainer.accumulation.micros(images, batch.captions)
            with torch.no_grad():
                arguments = phase.arguments(micro)
            terms, weights = phase.loss(*arguments)
            phase.end(terms)
            yield terms, weights


def _updates(toy: ToyTrainer) -> Iterator[tuple[Batch, int]]:
    batches = toy.batches(toy.config)
    for turn, index in enumerate(toy.updates):
        yield batches[turn % len(batches)], index


def _is_loss(key: str, node: Any) -> bool:
    return isinstance(node, dict) and "_target_" in node and key != "augmentation"  # which changes pictures


def _reach(toy: ToyTrainer, trainer: Trainer, term: str, found: set[str], trained: set[str]) -> Check:
    name = f"gradient of {term}"
    if term not in trainer.reaches:
        return Check(toy.step, name, False, f"{type(trainer).__name__}.REACHES does not say which parts it trains")
    wanted = set(trainer.reaches[term]) & trained
    said = f"reaches {_listed(found)}"
    return Check(toy.step, name, found == wanted, said if found == wanted else f"{said}, not {_listed(wanted)}")


def _summed(toy: ToyTrainer, loss: str, trainer: Trainer, terms: set[str], weighed: list[Weighed]) -> Check:
    """A loss that is configured has a term in the sum, and weight there on each side that it trains.

    What belongs to no loss by name belongs to the trainer's one.
    """
    homes = {term: (trainer.metrics.get(term) or loss).split(".")[0] for term in terms}
    own = {term for term, home in homes.items() if loss in (home, term)}
    name = f"loss {loss} is summed"
    if not own:
        return Check(toy.step, name, False, "no update has a term of it in the sum")
    # A term without weight may stand beside one that has some (l1 beside mse), but not beside an opponent's.
    sides: dict[Any, list[str]] = {}
    for term in sorted(own):
        sides.setdefault(trainer.reaches.get(term, term), []).append(term)
    idle = [side for side in sides.values() if all(_idle(term, weighed) for term in side)]
    if not idle:
        return Check(toy.step, name, True, f"by {_listed(own)}")
    of = "" if len(idle) == len(sides) else f" in {_listed({term for side in idle for term in side})}"
    return Check(toy.step, name, False, f"loss {loss} has weight 0{of}: it adds nothing")


def _idle(term: str, weighed: list[Weighed]) -> bool:
    return all(value == 0 for each in weighed for value in each.get(term, []))


def _weights(toy: ToyTrainer, weighed: list[Weighed]) -> Check:
    """No term has a negative weight, whatever a discriminator thinks of what it sees."""
    terms = dict.fromkeys(term for each in weighed for term in each)
    values = {term: [value for each in weighed for value in each.get(term, [])] for term in terms}
    wrong = {
        term: next(v for v in found if not v >= 0) for term, found in values.items() if not all(v >= 0 for v in found)
    }
    # Early in a step a warm-up, or an adaptive weight, stands at 0: what says something is the end.
    last = {term: min(each[term][-1] for each in weighed if term in each) for term in terms}
    note = ", ".join(f"{term} {value:.3g}" for term, value in (wrong or last).items())
    return Check(toy.step, "no term has a negative weight", not wrong, f"{'least' if wrong else 'at the end'}: {note}")


def _weighed(toy: ToyTrainer) -> list[Weighed]:
    """Weights that terms are summed with, in updates of each kind and in the step's last; each way of a discriminator.

    The last one is past every warm-up; no weights are moved by it.
    """
    found: list[Weighed] = []
    for shift in LOGIT_SHIFTS:
        trainer = toy.build(toy.config)
        if "discriminator" in trainer.setup.parts:
            bias = list(trainer.setup.parts["discriminator"].parameters())[-1]  # of the layer that gives logits
            with torch.no_grad():
                bias.add_(shift)
        elif shift != LOGIT_SHIFTS[0]:
            break
        values: Weighed = {}
        batch = toy.batches(toy.config)[0]
        for batch, index in _updates(toy):
            _note(values, trainer, batch, index)
            advance(trainer, batch, index)
        _note(values, trainer, batch, trainer.length.updates - 1)
        found.append(values)
    return found


def _note(values: Weighed, trainer: Trainer, batch: Batch, index: int) -> None:
    for _, weights in _phases(trainer, batch, index):
        for term, weight in weights.items():
            values.setdefault(term, []).append(float(weight))


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
