"""A player: parts of the model that one optimizer trains, with its schedule and averaged weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fluxflow_exp.machine import sharding
from fluxflow_exp.schedules import Schedule
from fluxflow_exp.trainers.context import StepContext
from fluxflow_exp.trainers.ema import EMA


class Player:
    """`parts` are trained from the step's update `start` on; only parameters that require gradients are.

    `beside` are modules that a loss needs: trained with the parts, and neither averaged nor published.
    """

    def __init__(
        self,
        name: str,
        parts: dict[str, nn.Module],
        *,
        optimizer: Callable[[list[tuple[str, nn.Parameter]]], Optimizer],
        schedule: Callable[[Optimizer], Schedule],
        ema_decay: float | None,
        clip: float | None,
        start: int = 0,
        beside: dict[str, nn.Module] | None = None,
    ) -> None:
        self.name, self.parts, self.clip, self.start = name, parts, clip, start
        self.beside = beside or {}
        modules = {**parts, **self.beside}
        self.keeps_gradients = False  # where they are in memory, zeroed, from one update to the next
        named = [(f"{part}.{n}", p) for part, m in modules.items() for n, p in m.named_parameters() if p.requires_grad]
        self.parameters = [parameter for _, parameter in named]
        self.sharded = any(sharding.is_sharded(m) for m in parts.values())
        self.optimizer = optimizer(named)
        self.schedule = schedule(self.optimizer)
        self.ema = EMA(parts, decay=ema_decay) if ema_decay is not None else None

    def train(self, active: bool) -> None:
        """Make this player's parameters the ones that gradients reach, or not."""
        if self.sharded:  # FSDP fixes at its first use whether a parameter has gradients
            return
        for parameter in self.parameters:
            parameter.requires_grad_(active)

    def clip_gradients(self, scaler: torch.amp.GradScaler) -> Tensor:
        """Unscale, clip to the L2 norm `clip`; returns the norm before clipping."""
        scaler.unscale_(self.optimizer)
        limit = self.clip if self.clip is not None else float("inf")
        norm: Tensor = sharding.whole(nn.utils.clip_grad_norm_(self.parameters, limit))
        return norm

    @property
    def can_leave_out(self) -> bool:
        """Whether the optimizer can leave out an update by a number on the device (torch's fused ones can)."""
        return bool(getattr(self.optimizer, "_step_supports_amp_scaling", False))

    def apply(self, scaler: torch.amp.GradScaler, *, bad: Tensor | None = None) -> None:
        """One optimizer update, then the schedule and the averages; none of the weights if `bad` () is 1."""
        if bad is not None:
            self.optimizer.found_inf = bad  # type: ignore[attr-defined]
        scaler.step(self.optimizer)
        self.optimizer.zero_grad(set_to_none=not self.keeps_gradients)
        self.schedule.step()
        if self.ema:
            self.ema.update()

    def rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def averages(self) -> dict[str, dict[str, Tensor]]:
        """Part → the weights that are evaluated and published: the averaged ones, if there are some."""
        return self.ema.average if self.ema else {part: module.state_dict() for part, module in self.parts.items()}

    def state_dict(self) -> dict[str, Any]:
        """Whole tensors, of what is sharded on the first rank alone: all ranks call it together then."""
        state: dict[str, Any] = sharding.gathered(
            {
                "parts": {name: module.state_dict() for name, module in self.parts.items()},
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "ema": self.ema.state_dict() if self.ema else None,
                **({"beside": {n: m.state_dict() for n, m in self.beside.items()}} if self.beside else {}),
            }
        )
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, module in [*self.parts.items(), *self.beside.items()]:
            mine, saved = module.state_dict(), state["beside" if name in self.beside else "parts"][name]
            module.load_state_dict({k: sharding.like(v, mine[k]) for k, v in saved.items()})
        saved = state["optimizer"]
        moments = {  # they are numbered as the parameters are
            i: {k: sharding.like(v, self.parameters[i]) for k, v in each.items()} for i, each in saved["state"].items()
        }
        self.optimizer.load_state_dict({**saved, "state": moments})
        self.schedule.load_state_dict(state["schedule"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])


def build_players(
    setup: StepContext,
    players: dict[str, tuple[str, ...]],
    *,
    averaged: tuple[str, ...],
    starts_at: Callable[[str], int],
    beside: dict[str, dict[str, nn.Module]],
) -> dict[str, Player]:
    """The players (name → parts) that have an optimizer and something to train, all parts still.

    `beside`: player → modules that are trained with its parts for a loss alone.

    Afterwards nothing but what is sharded requires gradients; players' parts are in training mode, what is only used
    in eval mode.
    """
    for part in setup.unfreeze:
        setup.parts[part].requires_grad_(True)
    made = {}
    for name, parts in players.items():
        trainable: dict[str, nn.Module] = {
            part: setup.adapters.get(part, setup.parts[part])
            for part in parts
            if part in setup.parts
            and part not in setup.freeze
            and any(p.requires_grad for p in setup.parts[part].parameters())
        }
        if name not in setup.optimizers or not trainable:
            continue
        horizon = setup.length.updates - starts_at(name)
        made[name] = Player(
            name,
            trainable,
            optimizer=setup.optimizers[name],
            schedule=partial(setup.schedulers[name], updates=horizon),
            ema_decay=setup.ema_decay if name in averaged else None,
            clip=setup.gradient_clip,
            start=starts_at(name),
            beside=beside.get(name),
        )
    for part, module in setup.parts.items():
        trained = any(part in player.parts for player in made.values())
        module.train(trained)
        if not sharding.is_sharded(module):
            module.requires_grad_(False)
    return made
