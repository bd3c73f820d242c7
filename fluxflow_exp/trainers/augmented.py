"""A flow step's augmentation: which views an update is drawn from, and the embedding that says how they are changed."""

from typing import Any

import torch
from torch import Tensor, nn

from fluxflow_exp.data.loader import Batch
from fluxflow_exp.losses.augmentation import Augmentation, Drawn, changes
from fluxflow_exp.machine import sharding
from fluxflow_exp.models.layers import to_device
from fluxflow_exp.seeding import seed_initialisation
from fluxflow_exp.trainers.context import StepContext
from fluxflow_exp.trainers.phase import Micro


class Augmented:
    """The embedding is trained with the flow transformer and not published: of what is unchanged it is zero."""

    def __init__(self, augmentation: Augmentation, setup: StepContext) -> None:
        self.augmentation, self.setup = augmentation, setup
        flow: Any = setup.parts["flow_processor"]
        with torch.random.fork_rng(devices=[]):
            seed_initialisation(setup.seed, "augmentation")
            self.embedding: nn.Module = augmentation.embedding(flow.width)
        setup.machine.place(self.embedding)
        if sharding.is_sharded(flow):  # an optimizer takes no whole weights beside such ones
            sharding.shard(self.embedding, setup.ranks, setup.machine.device, blocks=())
        self.drawn: Drawn | None = None

    def draw(self, batch: Batch, update: int, count: int) -> Drawn:
        """Choose views of the `count` samples of the global batch of `update`; those of `batch`, this rank's share."""
        setup = self.setup
        mine = self.augmentation.choose(count, setup.seed, setup.name, update)[setup.ranks.share(count)]
        how = [changes(name, view) for name, view in zip(batch.ids, mine, strict=True)]
        device = setup.machine.device
        self.drawn = Drawn(to_device(torch.tensor(mine), device), to_device(torch.tensor(how), device))
        return self.drawn

    def changes(self, micro: Micro) -> Tensor:
        """How each picture is changed, (micro-batch, NUMBERS)."""
        assert self.drawn
        return self.drawn.changes[micro.share]
