"""The tensors that `torch.compile` keeps in memory of a region (models/layers.py), without compiling it.

Torch's own partitioner divides a region's forward and backward graph, so what is kept between the two is what it keeps.
Inside a graph the compiler fuses pointwise operations into their neighbours: their results take memory only where
something else needs them as a whole, that is a convolution, a matrix product, attention, a kernel of ours, or the
caller.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from functorch.compile import aot_function, min_cut_rematerialization_partition
from torch import Tensor, fx, nn
from torch._inductor.decomposition import select_decomp_table
from torch.autograd.graph import saved_tensors_hooks

from fluxflow_exp.models.layers import Region
from fluxflow_exp.plan.memory_meter import Meter

Graphs = dict[Any, Callable[..., Any]]
VIEWS = {"view", "permute", "transpose", "expand", "alias", "slice", "select", "unsqueeze", "squeeze", "t", "split"}
VIEWS |= {"_unsafe_view", "reshape", "detach", "unbind", "split_with_sizes", "as_strided", "getitem"}
WHOLE = {
    "convolution",
    "convolution_backward",
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "bezier",
    "bezier_backward",
    "_to_copy",
}


def fuse_regions(model: nn.Module, meter: Meter, graphs: Graphs) -> None:
    """Run each outermost region of `model` as the compiler would; `graphs` is shared by models."""
    if isinstance(model, Region):
        model._compiled_call_impl = _Fused(model, meter, graphs)
        return
    for child in model.children():
        fuse_regions(child, meter, graphs)


class _Fused:
    def __init__(self, region: Region, meter: Meter, graphs: Graphs) -> None:
        self.region, self.meter, self.graphs = region, meter, graphs

    def __call__(self, *inputs: Tensor | None) -> Any:
        names, parameters = zip(*self.region.named_parameters(), strict=True)
        given = [index for index, each in enumerate(inputs) if each is not None]  # the others are off
        tensors = [*parameters, *(each for each in inputs if each is not None)]
        key = (
            repr(self.region),
            tuple(given),
            tuple((each.shape, each.stride(), each.dtype, each.requires_grad) for each in tensors),
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cuda"),
        )
        if key not in self.graphs:
            self.graphs[key] = self._trace(names, given)
            # Tracing makes tensors of its own, and the graphs keep some. A checkpoint around it takes no notice.
            with self.meter.off(), saved_tensors_hooks(_same, _same):
                self.graphs[key](*(torch.empty_like(each).requires_grad_(each.requires_grad) for each in tensors))
        return self.graphs[key](*tensors)

    def _trace(self, names: Iterable[str], given: list[int]) -> Callable[..., Any]:
        region, count = self.region, len(list(names))

        def call(*tensors: Tensor) -> Any:
            fused, region._compiled_call_impl = region._compiled_call_impl, None
            try:
                found = dict(zip(given, tensors[count:], strict=True))
                inputs = tuple(found.get(index) for index in range(max(given) + 1))
                return torch.func.functional_call(region, dict(zip(names, tensors, strict=False)), inputs)
            finally:
                region._compiled_call_impl = fused

        def partition(graph: Any, inputs: Any, **options: Any) -> Any:
            # Parameters stay anyway: the compiler keeps them for the backward pass, not their casts.
            options["static_lifetime_input_indices"] = list(range(count))
            return min_cut_rematerialization_partition(graph, inputs, **options)

        traced: Callable[..., Any] = aot_function(
            call,
            fw_compiler=self._compile,
            bw_compiler=self._compile,
            partition_fn=partition,
            decompositions=select_decomp_table(),
        )
        return traced

    def _compile(self, graph: fx.GraphModule, _: Any) -> Callable[[list[Any]], Any]:
        walk = _Walk(graph, self.meter)

        def run(arguments: list[Any]) -> Any:
            made = walk.boxed_run(arguments)
            walk.env, walk.sources = {}, {}
            return made

        run._boxed_call = True  # type: ignore[attr-defined]
        return run


def _same(tensor: Tensor) -> Tensor:
    return tensor


class _Walk(fx.Interpreter):
    """Runs a graph as fused kernels do: what a fused result is made of stays until the last kernel that has it."""

    def __init__(self, graph: fx.GraphModule, meter: Meter) -> None:
        super().__init__(graph)
        self.meter = meter
        self.real = _materialised(graph.graph)
        self.sources: dict[fx.Node, list[Any]] = {}  # of fused results that are still needed

    def run_node(self, node: fx.Node) -> Any:
        fused = node not in self.real
        with self.meter.weightless(fused):
            result = super().run_node(node)
        if fused and node.op == "call_function":
            self.sources[node] = [
                *(self.env[each] for each in node.all_input_nodes if each not in self.sources),
                *(source for each in node.all_input_nodes for source in self.sources.get(each, [])),
            ]
        for each in self.user_to_last_uses.get(node, []):
            self.sources.pop(each, None)
        return result


def _materialised(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose results take memory of their own."""
    real: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or _is_whole(node):
            real.add(node)
            for each in node.all_input_nodes:
                real |= _behind_views(each)
    return real | {node for node in graph.nodes if _is_reduction(node)}


def _behind_views(node: fx.Node) -> set[fx.Node]:
    found = {node}
    while node.op == "call_function" and _name(node) in VIEWS:
        node = node.all_input_nodes[0]
        found.add(node)
    return found


def _is_whole(node: fx.Node) -> bool:
    return node.op == "call_function" and (_name(node) in WHOLE or "scaled_dot_product" in _name(node))


def _is_reduction(node: fx.Node) -> bool:
    return node.op == "call_function" and _name(node) in ("sum", "mean", "var_mean", "amax")


def _name(node: fx.Node) -> str:
    target: Any = node.target
    name: str = (target.overloadpacket if isinstance(target, torch._ops.OpOverload) else target).__name__
    return name
