"""A flow step's alignment with a trained image model: the teacher, what it sees of each picture, and the projector."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fluxflow_exp.data.loader import Batch
from fluxflow_exp.losses.repa import Repa
from fluxflow_exp.losses.terms import Terms
from fluxflow_exp.machine import sharding
from fluxflow_exp.models.patch_encoder import on_grid
from fluxflow_exp.seeding import seed_initialisation
from fluxflow_exp.trainers.context import StepContext
from fluxflow_exp.trainers.phase import Micro


class Alignment:
    """Features come from the teacher at each use, or with a batch, if they were kept on disk.

    UserError: the teacher cannot be had. ValueError: the flow transformer has not the block.
    """

    def __init__(self, repa: Repa, setup: StepContext) -> None:
        self.repa, self.setup, self.machine = repa, setup, setup.machine
        flow: Any = setup.parts["flow_processor"]
        (self.block,) = repa.blocks(flow)
        compressor: Any = setup.parts["compressor"]
        self.patch, self.token = flow.patch_size, compressor.downscale * flow.patch_size  # latents, pixels a side
        self.teacher = repa.teacher()
        self.machine.place(self.teacher)
        with torch.random.fork_rng(devices=[]):
            seed_initialisation(setup.seed, "repa")
            self.projector: nn.Module = repa.projector(flow.width, self.teacher.channels)
        self.machine.place(self.projector)
        if sharding.is_sharded(flow):  # an optimizer takes no whole weights beside such ones
            sharding.shard(self.projector, setup.ranks, self.machine.device, blocks=())
        self.kept: Tensor | None = None
        self.on, self.grid = True, (1, 1)

    def begin_update(
        self, batch: Batch, update: int, *, latents: tuple[int, int], forget_graphs: Callable[[], None]
    ) -> None:
        """Take what was kept of this rank's share of the global batch, whose latents have this height and width."""
        updates = self.setup.length.updates
        self.on = self.repa.is_on(update, updates)
        if not self.on and update > 0 and self.repa.is_on(update - 1, updates):
            self.setup.console.say(f"Alignment with the teacher is off from update {update + 1} of {updates} on (stop)")
        held = [] if self.on else [p for p in self.projector.parameters() if p.grad is not None]
        if held:
            # Zeros that stayed would alter the last bits of a norm, and a process that begins here has none.
            forget_graphs()  # which add to what is taken away
            for parameter in held:
                parameter.grad = None
        self.grid = latents[0] // self.patch, latents[1] // self.patch
        kept = batch.features
        self.kept = None if kept is None else kept.to(self.machine.device, non_blocking=True)

    def features(self, micro: Micro) -> Tensor:
        """(micro-batch, channels, *grid of tokens), bfloat16; (0,) where alignment is off."""
        if not self.on:
            return torch.empty(0, device=self.machine.device)
        return on_grid(self.of(micro.images) if self.kept is None else self.kept[micro.share], *self.grid)

    def of(self, images: Tensor) -> Tensor:
        """The teacher's features of pictures (n, 3, height, width) in [-1, 1], to be kept: bfloat16.

        They are on its own grid, or on that of tokens where these are fewer.
        """
        rows, columns = (side // self.token for side in images.shape[-2:])
        fewer = rows * columns < math.prod(self.teacher.grid)
        return on_grid(self.teacher(images), *((rows, columns) if fewer else self.teacher.grid))

    def terms(self, tokens: Tensor, features: Tensor) -> Terms:
        """Of the block's tokens (micro-batch, rows · columns, width)."""
        return self.repa(self.projector(tokens), features)
