"""How much memory of a device live tensors take, and took at most, while a block of code runs."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BLOCK = 512  # bytes: CUDA's caching allocator rounds up to multiples


class Allocations(TorchDispatchMode):
    """Follows the storages of the tensors that operations of `kind` devices give."""

    def __init__(self, kind: str = "cuda") -> None:
        super().__init__()
        self.kind, self.live, self.peak = kind, 0, 0
        self._weightless = False
        self._sizes: dict[int, int] = {}
        self._watches: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and each.device.type == self.kind:
                self.add(each)
        return result

    def add(self, tensor: Tensor) -> None:
        """Count the storage of `tensor` from here on, until nobody holds it."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._watches:
            return
        size = 0 if self._weightless else -(-storage.nbytes() // BLOCK) * BLOCK
        self._sizes[key] = size
        self._watches[key] = weakref.ref(storage, lambda _: self._drop(key))
        self.live += size
        self.peak = max(self.peak, self.live)

    @contextmanager
    def weightless(self, active: bool = True) -> Iterator[None]:
        """What is made inside the block takes no memory, then or later."""
        before, self._weightless = self._weightless, self._weightless or active
        try:
            yield
        finally:
            self._weightless = before

    def restart(self) -> None:
        """Begin a new peak from what is live."""
        self.peak = self.live

    def _drop(self, key: int) -> None:
        self._watches.pop(key)
        self.live -= self._sizes.pop(key)
