"""How much memory and work a step's updates need, found by running its own trainer on a GPU that is not there.

A rehearsal builds the step as a run does, on fake tensors, and lets the trainer update; a meter follows what
lives. Nothing about a model, a loss or an optimizer is described a second time here.
"""

import dataclasses
import gc
import tempfile
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fluxflow_exp.config.compose import instantiate
from fluxflow_exp.config.schema import Hardware, RunConfig
from fluxflow_exp.data.loader import Batch
from fluxflow_exp.data.protocols import DataSet, Tokens
from fluxflow_exp.data.token_formats import form_of, packed
from fluxflow_exp.losses.terms import Terms
from fluxflow_exp.machine.cuda_graphs import CudaGraphs
from fluxflow_exp.machine.hardware import Machine, uses_cuda_graphs
from fluxflow_exp.plan.fake_gpu import DEVICE, fake_gpu
from fluxflow_exp.plan.fusion import fuse_regions
from fluxflow_exp.plan.memory_meter import Meter, Operation
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.step_length import Length
from fluxflow_exp.step_plan import trained_parts
from fluxflow_exp.trainers.base import Trainer
from fluxflow_exp.trainers.build import run_context, step_context
from fluxflow_exp.trainers.context import StepContext
from fluxflow_exp.trainers.latent_cache import STORED

Kind = tuple[str, ...]
# cuBLAS keeps 32 MiB for itself once it has run (CUBLAS_WORKSPACE_CONFIG=:4096:8, eight pieces of 4 MiB), and as
# much again once a graph was captured, which is done on a stream of its own.
WORKSPACE = 32 * 2**20
# Of FSDP2's largest block in the backward pass: its weights, those of the next one as they come and are unpacked, its
# gradients, and these packed to be summed. Of what stands outside of blocks, the weights and the gradients.
GATHERED, OUTSIDE = 5, 2


@dataclass
class Cost:
    """The cost of an update: bytes at the peak, and what is computed."""

    peak: int
    operations: list[Operation]

    @property
    def flops(self) -> int:
        return sum(each.flops for each in self.operations)


class Rehearsal:
    """A step's trainer on a fake GPU."""

    def __init__(
        self,
        trainer: Trainer,
        meter: Meter,
        *,
        img_size: int,
        captions: list[str],
        tokens: Tokens | None,
        gathered: int = 0,
    ) -> None:
        """`gathered`: bytes that are added to each peak, of what a rank gathers from others."""
        self.trainer, self.meter, self.captions, self.tokens = trainer, meter, captions, tokens
        self.gathered = gathered
        self.share = trainer.length.batch_size
        self.kept = meter.live  # bytes of weights and averages
        self.ready = False
        compressor: Any = trainer.setup.parts["compressor"]
        with torch.no_grad(), meter.off(), trainer.machine.autocast():
            images = torch.zeros(1, 3, img_size, img_size, device=DEVICE)
            moments = compressor.moments(images).to(STORED[trainer.machine.precision])
            self.moments = moments.repeat(1, trainer.views, 1, 1)
            self.features = trainer.features(images)
        shown = images if trainer.setup.cache is None else self.moments
        self.shape = shown.shape[1:]  # of what a batch holds
        self.dtype = torch.uint8 if trainer.setup.cache is None else self.moments.dtype

    def kinds(self) -> Counter[Kind]:
        """How often each kind of update occurs in the step."""
        return Counter(self.trainer.kind(index) for index in range(self.trainer.length.updates))

    def cost(self, kind: Kind, micro_batch: int) -> Cost:
        """Measure an update of that kind, the optimizers' moments being there already.

        Many micro-batches cost what two do and as often again the difference between three and two.
        """
        index = self._first(kind)
        if not self.ready:
            self._run(index, micro_batch, 1)
            self.ready = True
        count = self.share // micro_batch
        if count <= 3:
            return self._run(index, micro_batch, count)
        two, three = self._run(index, micro_batch, 2), self._run(index, micro_batch, 3)
        more = count - 2
        # Peaks that grow with the batch do so by whole images and what is kept of them.
        return Cost(
            two.peak + more * max(three.peak - two.peak, 0),
            two.operations + more * _difference(three.operations, two.operations),
        )

    def flops(self, kind: Kind) -> int:
        """Count an update of that kind, with the whole batch at once."""
        return self._run(self._first(kind), self.share, 1).flops

    def checkpoint_bytes(self) -> int:
        """Size of a saved state, once the optimizers have moments."""
        tensors = {id(each): each for each in tree_leaves(self.trainer.state_dict()) if isinstance(each, Tensor)}
        played = [module for player in self.trainer.players.values() for module in player.parts.values()]
        best = _bytes(played) if self.trainer.loss_tells else 0  # none was evaluated here
        return best + sum(each.numel() * each.element_size() for each in tensors.values())

    def weights_bytes(self) -> int:
        """Size of the parts that the step trains, as they are published: averaged and raw, an adapter in its part."""
        players = self.trainer.players.values()
        return 2 * _bytes([self.trainer.setup.parts[part] for player in players for part in player.parts])

    def cached_bytes(self) -> int:
        """Size of an image's entry in a cache of moments, and of a teacher's features."""
        kept = [self.moments] if self.features is None else [self.moments, self.features]
        return sum(each.numel() * each.element_size() for each in kept)

    def token_bytes(self) -> int | None:
        """Size of the longest caption's entry in a cache of tokens; None: they are not cached."""
        return None if self.tokens is None else self.tokens.tokens[0].numel() * self.tokens.tokens.element_size()

    def _first(self, kind: Kind) -> int:
        return next(i for i in range(self.trainer.length.updates) if self.trainer.kind(i) == kind)

    def _run(self, index: int, micro_batch: int, count: int) -> Cost:
        trainer, length = self.trainer, dataclasses.replace(self.trainer.length, batch_size=micro_batch * count)
        trainer.length, trainer.accumulation.micro_batch = length, micro_batch
        images = torch.empty(length.batch_size, *self.shape, dtype=self.dtype)
        captions = (self.captions * length.batch_size)[: length.batch_size]
        trainer.update_index = index
        gc.collect()
        self.meter.restart()
        kept = self.features if trainer.setup.cache is not None else None
        if kept is not None:
            kept = torch.empty(length.batch_size, *kept.shape[1:], dtype=kept.dtype)
        tokens = self.tokens and Tokens(
            self.tokens.tokens.repeat_interleave(length.batch_size, 0), self.tokens.lengths * length.batch_size
        )
        trainer.update(Batch(images, captions, captions, [], tokens, kept))
        trainer.metric_buffer.updates = []  # fake numbers are never read
        streams = 1 if trainer.accumulation.cuda_graphs is None else 2
        return Cost(self.meter.peak + self.gathered + streams * WORKSPACE, self.meter.operations)


class _Captured(CudaGraphs):
    """The memory that graphs add to passes: arguments of their own, and gradients that stay."""

    def forget(self) -> None:
        super().forget()
        self.arguments: dict[Hashable, list[Tensor]] = {}

    def run(self, pass_: Callable[..., Terms], arguments: Sequence[Tensor], *, key: Hashable = None) -> Terms:
        self.arguments[key] = [each.clone() for each in arguments]
        return pass_(*self.arguments[key])


@contextmanager
def rehearsal(config: RunConfig, name: str, length: Length, data: DataSet) -> Iterator[Rehearsal]:
    """A rehearsal of step `name`, with `length.batch_size` a rank's share; nothing fake may leave the block."""
    step = dataclasses.replace(config.stage.steps[name], init_from=None)
    cache = dataclasses.replace(config.cache, recent_gib=None)  # it takes memory of the host
    fresh = dataclasses.replace(config, stage=dataclasses.replace(config.stage, steps={name: step}), cache=cache)
    machine = fake_machine(config.hardware)
    longest = sorted(data.prompts, key=len)[-1:]
    graphs: dict[Any, Any] = {}
    with tempfile.TemporaryDirectory() as scratch, fake_gpu(), Meter() as meter:
        run = run_context(config, RunFolder(Path(scratch)), machine)
        with torch.device(DEVICE):
            context = step_context(fresh, name, run, length=length, data=data)
        gathered = (
            _spread(context, meter, config.hardware) if "flow_processor" in trained_parts(step, config.model) else 0
        )
        if config.hardware.compile is not False:
            for part in context.parts.values():
                fuse_regions(part, meter, graphs)
        trainer: Trainer = instantiate(step.trainer, setup=context)
        if uses_cuda_graphs(config.hardware, machine.precision):
            trainer.accumulation.replay(_Captured)
        tokens = _tokens(context, longest, trained="text_encoder" in trainer.players, meter=meter)
        kept = SimpleNamespace(read=lambda _: tokens) if tokens else None
        with patch("fluxflow_exp.trainers.flow.open_cache", lambda *_: SimpleNamespace(tokens=kept)):
            trainer.open_source()
        about: Any = {"img_size": data.img_size, "captions": longest, "tokens": tokens}
        yield Rehearsal(trainer, meter, **about, gathered=gathered)


def _spread(context: StepContext, meter: Meter, hardware: Hardware) -> int:
    """Let `meter` count a rank's share of a flow transformer that is spread over ranks; bytes of what it gathers."""
    if hardware.parallel != "fsdp" or hardware.ranks == 1:
        return 0
    flow: Any = context.parts["flow_processor"]
    meter.spread(list(flow.parameters()), hardware.ranks)
    blocks = [_bytes([block]) for block in flow.blocks]
    return GATHERED * max(blocks) + OUTSIDE * (_bytes([flow]) - sum(blocks))


def _tokens(context: StepContext, captions: list[str], *, trained: bool, meter: Meter) -> Tokens | None:
    """What a cache holds of a caption, on the host; None: the step caches no tokens."""
    if context.cache is None or trained or "text_encoder" not in context.parts:
        return None
    with torch.no_grad(), meter.off(), context.machine.autocast():
        shape = context.parts["text_encoder"](captions).tokens.shape
    kept = packed(torch.zeros(shape), form_of(context.caching.text_dtype, context.machine.precision))
    return Tokens(kept, [shape[1]])


def fake_machine(hardware: Hardware) -> Machine:
    """The choices of `hardware` on a card that is not there; regions are compiled in another way (fusion.py)."""
    precision = "bf16" if hardware.precision == "auto" else hardware.precision
    return Machine(DEVICE, precision, exact=bool(hardware.exact))


def _bytes(modules: list[nn.Module]) -> int:
    return sum(each.numel() * each.element_size() for module in modules for each in module.state_dict().values())


def _difference(more: list[Operation], fewer: list[Operation]) -> list[Operation]:
    left = Counter(more)
    left.subtract(Counter(fewer))
    return [each for each, count in left.items() for _ in range(max(count, 0))]
