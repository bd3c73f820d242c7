"""CUDA graphs of forward and backward passes: what the host launched kernel by kernel it launches again in one call."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

Results = dict[str, Tensor]
Shapes = tuple[Hashable, tuple[tuple[torch.Size, torch.dtype], ...]]

WARM_UP = 3  # passes of a shape before its graph is captured: they compile, and allocate the gradients


class CudaGraphs:
    """Graphs of passes, one for each key and set of shapes; a shape that is seldom met gets none.

    A pass adds to the gradients of the players' parameters, so that these must stay where they are in memory.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Free all graphs with their memory: gradients or shapes are about to change."""
        self.graphs: dict[Shapes, _Graph] = {}
        self.met: Counter[Shapes] = Counter()
        self.pool: Any = None  # memory that all graphs use in turn: nothing in it is needed after a replay

    @property
    def keyed(self) -> bool:
        """Whether a pass that has a key was to become a graph, as where passes of several kinds take turns."""
        return any(key is not None and count > WARM_UP for (key, _), count in self.met.items())

    def run(self, pass_: Callable[..., Results], arguments: Sequence[Tensor], *, key: Hashable = None) -> Results:
        """pass_(*arguments), whose every kernel must be a function of the arguments and of weights alone.

        `key` tells passes of the same shapes apart.
        """
        shapes = key, tuple((each.shape, each.dtype) for each in arguments)
        if shapes not in self.graphs:
            self.met[shapes] += 1
            if self.met[shapes] <= WARM_UP:
                return pass_(*arguments)
            self.pool = self.pool or torch.cuda.graph_pool_handle()
            self.graphs[shapes] = _Graph(pass_, arguments, self.pool)
        return self.graphs[shapes].replay(arguments)


class _Graph:
    def __init__(self, pass_: Callable[..., Results], arguments: Sequence[Tensor], pool: Any) -> None:
        self.arguments = [each.clone() for each in arguments]
        self.graph = torch.cuda.CUDAGraph()
        # Only this thread's calls are held to what a capture allows: another one pins memory for the next batches.
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.terms = pass_(*self.arguments)

    def replay(self, arguments: Sequence[Tensor]) -> Results:
        for mine, given in zip(self.arguments, arguments, strict=True):
            mine.copy_(given)
        self.graph.replay()
        return {name: values.clone() for name, values in self.terms.items()}
