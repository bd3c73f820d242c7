"""Exponential moving average of weights (Polyak & Juditsky 1992), with warm-up."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fluxflow_exp.machine.sharding import like, local


class EMA:
    """Float32 averages of the parameters of `modules`; buffers are followed as they are.

    The decay of the n-th update is min(decay, (1 + n) / (10 + n)), so that the first weights are soon forgotten.
    """

    def __init__(self, modules: dict[str, nn.Module], *, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema.decay must be in [0, 1), not {decay}")
        self.modules, self.decay, self.updates = modules, decay, 0
        self.average = {
            part: {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
            for part, module in modules.items()
        }

        # Looked up once: going through the modules at each update takes longer than the arithmetic.
        self._parameters = [
            (self.average[part][name], parameter)
            for part, m in modules.items()
            for name, parameter in m.named_parameters()
        ]
        self._buffers = [
            (self.average[part][name], buffer)
            for part, module in modules.items()
            for name, buffer in module.named_buffers()
            if name in self.average[part]
        ]

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for average, buffer in self._buffers:
            average.copy_(buffer)
        averages = [local(average) for average, _ in self._parameters]
        torch._foreach_lerp_(averages, [local(parameter) for _, parameter in self._parameters], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The modules hold the averages inside the block, and their own weights again after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, object]:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.updates = int(state["updates"])  # type: ignore[call-overload]
        saved: dict[str, dict[str, Tensor]] = state["average"]  # type: ignore[assignment]
        for part, tensors in self.average.items():
            for name, tensor in tensors.items():
                tensor.copy_(like(saved[part][name], tensor))

    @torch.no_grad()
    def _swap(self) -> None:
        for part, module in self.modules.items():
            for name, tensor in module.state_dict().items():
                mine, theirs = local(self.average[part][name]), local(tensor)
                mine_copy = mine.clone()
                mine.copy_(theirs)
                theirs.copy_(mine_copy)
