"""Which module a number that is not finite comes from: what every module gives, and what it passes back, is looked at.

Only for updates that are done again: each look makes the host wait for the device. Nothing that is computed changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fluxflow_exp.monitor.finite import NonFiniteError

Direction = Literal["forward", "backward"]


class Seen(NamedTuple):
    """Statistics of a module's output (forward), or of the gradient of its inputs or parameters (backward)."""

    module: str  # part and path in it, e.g. expander.stages.0.1.narrow
    direction: Direction
    low: float | None  # of the finite values; None: there are none
    high: float | None
    bad: int  # values that are not finite
    values: int


class NonFiniteHooks(ExitStack):
    """Inside a `with` block: everything that the modules of `parts` compute, in the order in which they do it."""

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        super().__init__()  # keeps the hooks, and removes them at the end of the block
        self.seen: list[Seen] = []
        self.origins: dict[Direction, tuple[int, str]] = {}  # place in `seen`, and the module that it begins in
        self._names = {
            module: f"{part}.{path}".strip(".") for part, m in parts.items() for path, module in m.named_modules()
        }
        self._fed_well: dict[str, bool] = {}  # module → whether its inputs were finite
        self._hooked: set[nn.Parameter] = set()

    def __enter__(self) -> NonFiniteHooks:
        for module in self._names:
            self.enter_context(module.register_forward_pre_hook(self._before))
            self.enter_context(module.register_forward_hook(self._after))
        return self

    def origin(self, error: NonFiniteError) -> tuple[int, str] | None:
        """Place in `seen` and name of the module that `error` comes from; None: it arises in the loss itself."""
        # Behind a loss that is not finite no gradient is, either.
        directions: tuple[Direction, ...] = ("forward",) if error.term else ("forward", "backward")
        return next((self.origins[each] for each in directions if each in self.origins), None)

    def _before(self, module: nn.Module, inputs: Any) -> None:
        name = self._names[module]
        self._fed_well[name] = all(bool(tensor.isfinite().all()) for tensor in _tensors(inputs))
        if not torch.is_grad_enabled():
            return
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and parameter not in self._hooked:
                self._hooked.add(parameter)
                handle = parameter.register_hook(partial(self._gradient, name))  # type: ignore[no-untyped-call]
                self.enter_context(handle)
        if not any(module.children()):
            for tensor in _tensors(inputs):
                if tensor.requires_grad and not tensor.is_leaf:
                    handle = tensor.register_hook(partial(self._gradient, name))  # type: ignore[no-untyped-call]
                    self.enter_context(handle)

    def _after(self, module: nn.Module, inputs: Any, output: Any) -> None:
        for tensor in _tensors(output):
            self._look(self._names[module], "forward", tensor)

    def _gradient(self, name: str, gradient: Tensor) -> None:
        self._look(name, "backward", gradient)

    @torch.no_grad()
    def _look(self, name: str, direction: Direction, tensor: Tensor) -> None:
        finite = tensor.isfinite()
        good = tensor[finite].float()
        low, high = (float(good.min()), float(good.max())) if good.numel() else (None, None)
        bad = tensor.numel() - good.numel()
        self.seen.append(Seen(name, direction, low, high, bad, tensor.numel()))
        if bad and direction not in self.origins:
            origin = self._fed(name) if direction == "forward" else name
            self.origins[direction] = (len(self.seen) - 1, origin)

    def _fed(self, name: str) -> str:
        """The innermost module around `name`, or itself, whose inputs were finite; itself if there is none."""
        path = name
        while path:
            if self._fed_well.get(path, False):
                return path
            path = path.rpartition(".")[0]
        return name


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of floating-point numbers in what a module takes or gives."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.numel():
            yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
