"""A backward pass walked in Python: torch's own engine asks for a CUDA context, which a plan is made without.

Nodes run in the engine's order (the latest made first), gradients are summed and brought to the shapes and types that
the forward pass had, and what a node kept is let go as soon as it has run, as the engine does: memory that is followed
meanwhile is that of a real backward pass. Hooks of tensors and nodes are not called.
"""

import heapq
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge, saved_tensors_hooks

Key = tuple[int, int]  # a node: its number, and for an end of the graph, which has none, its identity
LEAF = sys.maxsize  # the ends come first
Gradients = list[Tensor | None]


@contextmanager
def walked() -> Iterator[None]:
    """Backward passes of graphs that are made inside the block are walked here."""
    walk = Walk()
    with (
        saved_tensors_hooks(Slot, walk.unpack),
        patch("torch.autograd._engine_run_backward", walk.run),
        patch("torch._C._current_graph_task_id", lambda: walk.passes),
    ):
        yield


@dataclass(eq=False)
class Slot:
    """A tensor that a node has kept."""

    tensor: Tensor | None


class Walk:
    """Stands in for torch's engine."""

    def __init__(self) -> None:
        self.passes = 0
        self.read: list[weakref.ref[Slot]] = []  # by the node that is running, which may let go of them itself

    def unpack(self, slot: Slot) -> Tensor:
        assert slot.tensor is not None, "a graph is walked a second time"
        self.read.append(weakref.ref(slot))
        return slot.tensor

    def run(
        self,
        outputs: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        retain_graph: bool,
        create_graph: bool,
        inputs: Sequence[Tensor],
        allow_unreachable: bool,
        *,
        accumulate_grad: bool,
    ) -> tuple[Tensor | None, ...]:
        """The engine's entry point."""
        self.passes += 1
        edges = [get_gradient_edge(each) for each in inputs]
        wanted = {_key(edge.node): index for index, edge in enumerate(edges)}
        found: Gradients = [None] * len(edges)
        roots = [get_gradient_edge(each) for each in outputs]
        counts, useful, _ends = _survey([root.node for root in roots], set(wanted))
        ready: list[tuple[int, int, Any]] = []
        buffers: dict[Key, Gradients] = {}
        for root, gradient in zip(roots, gradients, strict=True):
            _add(buffers, root.node, root.output_nr, gradient)
        for node in {_key(root.node): root.node for root in roots}.values():
            if not counts[_key(node)]:
                heapq.heappush(ready, (*_order(node), node))
        del roots
        with torch.set_grad_enabled(create_graph):
            while ready:
                node = heapq.heappop(ready)[-1]
                key = _key(node)
                given = buffers.pop(key, [])
                if key in wanted:
                    index = wanted[key]
                    found[index] = given[edges[index].output_nr] if given else None
                elif _is_leaf(node):
                    if accumulate_grad and given:
                        _accumulate(node.variable, given.pop())
                    continue
                if not useful.get(key):
                    continue
                made = self._call(node, given, keep=retain_graph)
                del given
                for (following, number), gradient in zip(node.next_functions, made, strict=False):
                    if following is None:
                        continue
                    _add(buffers, following, number, gradient)
                    counts[_key(following)] -= 1
                    if not counts[_key(following)]:
                        heapq.heappush(ready, (*_order(following), following))
                made = gradient = node = following = None  # type: ignore[assignment]
        return tuple(found)

    def _call(self, node: Any, given: Gradients, *, keep: bool) -> Sequence[Tensor | None]:
        """The gradients that `node` gives to what follows it."""
        if not any(each is not None for each in given):
            return [None] * len(node.next_functions)
        outer, self.read = self.read, []
        made = _from_python(node, given) if isinstance(node, torch._C._FunctionBase) else node(*given)
        if not keep:
            for slot in filter(None, (reference() for reference in self.read)):
                slot.tensor = None
        self.read = outer
        return made if isinstance(made, tuple) else (made,)


def _from_python(node: Any, given: Gradients) -> tuple[Tensor | None, ...]:
    """Gradients of a function written in Python: it has arguments that are no tensors, too, and no edges for those."""
    made = node.apply(*given)
    made = made if isinstance(made, tuple) else (made,)
    wanted = (each for each, needed in zip(made, node.needs_input_grad, strict=False) if needed)
    return tuple(None if following is None else next(wanted) for following, _ in node.next_functions)


def _survey(roots: list[Any], wanted: set[Key]) -> tuple[dict[Key, int], dict[Key, bool], list[Any]]:
    """How many edges lead to each node, whether a way from it leads to what is wanted (if nothing is: always), and the
    ends of the graph, which keep their identity as long as they are held."""
    ends = []
    counts: dict[Key, int] = {_key(root): 0 for root in roots}
    useful: dict[Key, bool] = {}
    following: dict[Key, list[Key]] = {}
    stack = list({_key(root): root for root in roots}.values())
    while stack:
        node = stack.pop()
        key = _key(node)
        if key in following:
            continue
        if key[0] == LEAF:
            ends.append(node)
        # Asked once: a leaf's identity is that of an object which is gone as soon as nobody holds it.
        nodes = [each for each, _ in node.next_functions if each is not None]
        following[key] = [_key(each) for each in nodes]
        for each in nodes:
            counts[_key(each)] = counts.get(_key(each), 0) + 1
        stack.extend(nodes)
    for key in sorted(following, key=lambda key: (key[0] != LEAF, key)):  # a node is younger than what it leads to
        useful[key] = not wanted or any(each in wanted or useful[each] for each in following[key])
    return counts, useful, ends


def _key(node: Any) -> Key:
    number = node._sequence_nr()
    return (LEAF, id(node)) if number >= LEAF else (number, 0)


def _is_leaf(node: Any) -> bool:
    return hasattr(node, "variable")


def _order(node: Any) -> tuple[int, int]:
    first, second = _key(node)
    return -first, second


def _add(buffers: dict[Key, Gradients], node: Any, number: int, gradient: Tensor | None) -> None:
    """Sum a gradient into what `node` will be given."""
    expected = node._input_metadata
    buffer = buffers.setdefault(_key(node), [None] * len(expected))
    if gradient is None:
        return
    facts = expected[number]
    if gradient.shape != facts.shape:
        gradient = gradient.sum_to_size(facts.shape)
    if gradient.dtype != facts.dtype:
        gradient = gradient.to(facts.dtype)
    before = buffer[number]
    if before is None:
        buffer[number] = gradient
    elif not torch.is_grad_enabled() and _is_alone(before):
        before.add_(gradient)
    else:
        buffer[number] = before + gradient


def _is_alone(tensor: Tensor) -> bool:
    """Whether nothing but a buffer and its callers hold `tensor`, so that it may be written to."""
    return sys.getrefcount(tensor) <= 4 and tensor._base is None


def _accumulate(leaf: Tensor, gradient: Tensor | None) -> None:
    if gradient is None:
        return
    if leaf.grad is None:
        leaf.grad = gradient.detach()
    else:
        leaf.grad.add_(gradient)
