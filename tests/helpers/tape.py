"""In place of CUDA graphs where there is no GPU: operations that were recorded once are done again on the same tensors.

As a graph, a replay knows nothing of Python: what the host has changed since (a number, another tensor under an old
name) does not reach it, and what a pass keeps in Python is not kept again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fluxflow_exp.machine import cuda_graphs

ASKS = torch.ops.aten._local_scalar_dense.default  # what the host would wait for


class Tape(TorchDispatchMode):
    """Has the interface of `cuda_graphs._Graph`."""

    recording = False

    def __init__(self, pass_: Callable[..., dict[str, Tensor]], arguments: Sequence[Tensor], pool: Any) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Any]]] = []
        self.arguments = [each.clone() for each in arguments]
        self.replays = 0
        Tape.recording = True
        try:
            with self:
                self.terms = pass_(*self.arguments)
        finally:
            Tape.recording = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not ASKS, "a capture must not ask the GPU"
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, tree_leaves(found)))
        return found

    def replay(self, arguments: Sequence[Tensor]) -> dict[str, Tensor]:
        if self.replays:  # recording, other than a capture, has computed it already
            for mine, given in zip(self.arguments, arguments, strict=True):
                mine.copy_(given)
            with torch.no_grad():
                self._play()
        self.replays += 1
        return {name: values.clone() for name, values in self.terms.items()}

    def _play(self) -> None:
        for func, args, kwargs, found in self.calls:
            for old, new in zip(found, tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)


def play(patch: pytest.MonkeyPatch) -> None:
    """Let graphs be tapes."""
    patch.setattr(cuda_graphs, "_Graph", Tape)
    patch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
