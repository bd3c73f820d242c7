"""Going on from a published model on new pictures: all weights of its flow transformer, or a LoRA adapter alone.

The latents' statistics stay the published ones. What the model was able to do is measured beside what it learns: where
the step's data are several sets, the held-out flow loss of each is logged, with how far it has moved from the published
model's at the same pictures, times and noise (`drift_NAME`; above 0 something was forgotten).
"""

from dataclasses import replace
from typing import Any

import torch

from fluxflow_exp.config.bounds import PositiveFloat, PositiveInt
from fluxflow_exp.data.loader import Batch
from fluxflow_exp.data.protocols import sets_of
from fluxflow_exp.errors import counted
from fluxflow_exp.losses.augmentation import Augmentation
from fluxflow_exp.losses.flow_matching import RectifiedFlow
from fluxflow_exp.losses.repa import Repa
from fluxflow_exp.losses.self_alignment import SelfAlignment
from fluxflow_exp.losses.terms import Loss
from fluxflow_exp.machine import sharding
from fluxflow_exp.machine.portion import Portion
from fluxflow_exp.models import lora
from fluxflow_exp.seeding import generator
from fluxflow_exp.trainers import shared
from fluxflow_exp.trainers.context import StepContext
from fluxflow_exp.trainers.flow import FlowTrainer


class FinetuneTrainer(FlowTrainer):
    """A flow step whose parts all come from a published file.

    `lora_rank`: only an adapter of this rank is trained, on the linear layers whose names match one of `lora_targets`
    (patterns of fnmatch; by default all of the blocks); its product is weighted by `lora_alpha` / rank, by default 1.
    """

    USES = ("compressor", "expander", "flow_processor")
    FROM_PUBLISHED = True
    CACHES_DRAWN = True

    def __init__(
        self,
        setup: StepContext,
        *,
        objective: RectifiedFlow,
        lora_rank: PositiveInt | None = None,
        lora_alpha: PositiveFloat | None = None,
        lora_targets: list[str] | None = None,
        self_alignment: SelfAlignment | None = None,
        repa: Repa | None = None,
        augmentation: Augmentation | None = None,
        **losses: Loss,
    ) -> None:
        self.lora = lora_facts(lora_rank, lora_alpha, lora_targets) if lora_rank else None
        if self.lora:
            self._adapt(setup, self.lora)
        given: dict[str, Any] = {"self_alignment": self_alignment, "repa": repa, "augmentation": augmentation, **losses}
        super().__init__(setup, objective=objective, **given)

    def _adapt(self, setup: StepContext, facts: lora.Facts) -> None:
        """Put an adapter into each part that a player trains. ValueError: no layer of it is meant."""
        for player, parts in self.PLAYERS.items():
            for part in parts if player in setup.optimizers else ():
                module = setup.parts[part]
                trainable = any(p.requires_grad for p in module.parameters()) or part in setup.unfreeze
                if part in setup.freeze or not trainable:
                    continue
                if sharding.is_sharded(module):
                    raise ValueError("lora_rank: hardware.parallel=fsdp spreads what is trained whole: set it to ddp")
                names = lora.layers(part, module, facts.targets)
                if not names:
                    raise ValueError(f"lora_targets: {', '.join(facts.targets)} match no linear layer of {part}")
                adapter = lora.Adapter(module, rank=facts.rank, alpha=facts.alpha, names=names)
                adapter.initialise(generator(setup.seed, setup.name, part, "lora"))
                setup.adapters[part] = adapter
                self._tell(setup, part, len(names))

    @staticmethod
    def _tell(setup: StepContext, part: str, layers: int) -> None:
        """Say how large the adapter of a part is, beside all that the model has."""
        own = sum(p.numel() for p in setup.adapters[part].parameters())
        added = sum(p.numel() for adapter in setup.adapters.values() for p in adapter.parameters())
        whole = sum(p.numel() for module in setup.parts.values() for p in module.parameters()) - added
        setup.console.say(
            f"Step {setup.name}: an adapter of {counted(layers, 'layer')} of {part}, {own:,} parameters, "
            f"{100 * own / whole:.2g} % of the model's {whole:,}"
        )

    def prepare(self) -> None:
        """Measure the published model's held-out losses; its latent statistics stay."""
        given = shared.measured(self.setup)
        with torch.no_grad(), self.averaged(raw=True):
            measured = self.losses_by_set(*given)
        self.before = self.ranks.from_first(measured)
        self.setup.console.say(f"Step {self.setup.name}: the published model has {_listed(self.before)}")

    def fit(self) -> dict[str, float]:
        final = super().fit()
        for name in ["val_flow", *(f"val_flow_{each}" for each in sets_of(self.setup.data))]:
            if name in self.before and name in final:
                first, last = self.before[name], final[name]
                change = f" ({100 * (last / first - 1):+.2f} %)" if first else ""
                self.setup.console.say(f"Step {self.setup.name}: {name} {first:.4g} → {last:.4g}{change}")
        return final

    def held_out_losses(self, batch: Batch, portion: Portion) -> dict[str, float]:
        now = self.losses_by_set(batch, portion)
        drift = {
            f"drift_{name}": now[f"val_flow_{name}"] - self.before[f"val_flow_{name}"]
            for name in sets_of(self.setup.data)
            if f"val_flow_{name}" in now and f"val_flow_{name}" in self.before
        }
        return now | drift

    def losses_by_set(self, batch: Batch, portion: Portion) -> dict[str, float]:
        """`val_flow` of all, and val_flow_NAME of each set that the step's data are of; on the first rank."""
        losses, ids = torch.cat(list(self.flow_losses(batch, portion))), portion.listed(batch.ids)
        losses = portion.whole(losses).double().cpu()
        if not self.ranks.first:
            return {}
        found = {"val_flow": float(losses.mean())}
        for name in sets_of(self.setup.data):
            rows = [row for row, each in enumerate(ids) if each.startswith(f"{name}/")]
            if rows:
                found[f"val_flow_{name}"] = float(losses[rows].mean())
        return found

    def adapter_facts(self) -> lora.Facts:
        assert self.lora
        adapters = self.setup.adapters.items()
        return replace(self.lora, base={part: lora.base_digest(each.base()) for part, each in adapters})

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "before": self.before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.before = state["before"]


def lora_facts(rank: int, alpha: float | None, targets: list[str] | None) -> lora.Facts:
    """What is asked of an adapter, whose base is not known yet."""
    return lora.Facts(rank, rank if alpha is None else alpha, list(targets or lora.TARGETS), {})


def _listed(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
