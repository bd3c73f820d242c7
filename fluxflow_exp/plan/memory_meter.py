"""The cost of operations on a device: memory of the tensors that live, arithmetic, bytes read and written."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

BLOCK = 512  # bytes: CUDA's caching allocator rounds up to multiples


class Operation(NamedTuple):
    flops: int
    traffic: int  # bytes read and written


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages of the tensors that operations give on devices of `kind`, and notes the operations."""

    def __init__(self, kind: str = "cuda") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind = kind
        self.live, self.peak = 0, 0  # bytes
        self.operations: list[Operation] = []
        self._sizes: dict[int, int] = {}
        self._watches: dict[int, Any] = {}
        self._weightless = self._off = False
        self._spread: set[torch.Size] = set()
        self._ranks = 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        made = self._mine(result)
        for each in made:
            self._follow(each)
        if made and not self._off and not _is_view(func):
            formula = flop_registry.get(func._overloadpacket)
            flops = formula(*args, **kwargs, out_val=result) if formula else 0
            if formula or not self._weightless:
                self.operations.append(Operation(flops, sum(map(_bytes, [*self._mine((args, kwargs)), *made]))))
        return result

    def restart(self) -> None:
        """Begin a new peak from what is live, and a new list of operations."""
        self.peak, self.operations = self.live, []

    def spread(self, parameters: list[Tensor], ranks: int) -> None:
        """Count a rank's share of `parameters`, and from now on of averages, gradients and moments: of their shapes.

        Vectors are left out: they are small, and other things have their shapes.
        """
        self._spread, self._ranks = {each.shape for each in parameters if each.ndim > 1}, ranks
        for each in parameters:
            key = each.untyped_storage()._cdata
            if each.ndim > 1 and key in self._sizes:
                self.live -= self._sizes[key] - self._sizes[key] // ranks
                self._sizes[key] //= ranks

    @contextmanager
    def weightless(self, active: bool = True) -> Iterator[None]:
        """Results of the block take no memory, then or later, and only matrix products and the like are noted."""
        before, self._weightless = self._weightless, self._weightless or active
        try:
            yield
        finally:
            self._weightless = before

    @contextmanager
    def off(self) -> Iterator[None]:
        """The block takes no memory and no operation of it is noted."""
        before, self._off = self._off, True
        with self.weightless():
            try:
                yield
            finally:
                self._off = before

    def _mine(self, values: Any) -> list[Tensor]:
        return [each for each in tree_leaves(values) if isinstance(each, Tensor) and each.device.type == self.kind]

    def _follow(self, tensor: Tensor) -> None:
        """Count the storage of `tensor` from here on, until nobody holds it."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._watches:
            return
        ranks = self._ranks if tensor.shape in self._spread and tensor.dtype == torch.float32 else 1
        size = 0 if self._weightless else -(-storage.nbytes() // ranks // BLOCK) * BLOCK
        self._sizes[key] = size
        self._watches[key] = weakref.ref(storage, lambda _: self._forget(key))
        self.live += size
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int) -> None:
        self._watches.pop(key)
        self.live -= self._sizes.pop(key)


def _is_view(func: torch._ops.OpOverload) -> bool:
    alias = func._schema.returns[0].alias_info if func._schema.returns else None
    return func.namespace == "prim" or (alias is not None and not alias.is_write)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
