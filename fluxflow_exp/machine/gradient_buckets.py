"""Gradients summed over the ranks in buckets, while the backward pass still runs (Li et al. 2020, arXiv 2006.15704).

What a bucket holds and when its turn is follow from the parameters alone, not from the moment at which gradients are
there: the bits of a sum do not depend on timing, and all ranks exchange in one order.

A pass that is replayed as a CUDA graph holds no exchange. It records an event where a bucket is full; the host, which
has launched the whole graph, then has each exchange wait for its event alone. So a rank may launch what another one
replays (captions differ in length, memory runs out), and no communicator takes part in a capture.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from weakref import ref

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

SIZE = 25 * 2**20  # bytes of a bucket; a parameter that has more is one of its own
ALIGNED = 32  # elements: a gradient begins where kernels may read whole words of memory


class GradientBuckets:
    """`parameters` come in the order in which a backward pass is expected to reach them.

    Those that are spread over the ranks are left out: they have been summed already. Where some are, exchanges wait
    for the end of the pass, so that theirs and these do not meet in another order on another rank.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        from torch.distributed.tensor import DTensor  # half a second that a rank alone does without

        given = list(parameters)
        whole = [p for p in given if not isinstance(p, DTensor)]
        self.buckets = [_Bucket(each) for each in _cut(whole)]
        self.begun = 0  # buckets whose exchange has begun, in order; also what a failed pass has left
        self._nodes: list[list[Any]] | None = None  # of each bucket, while the hooks of a backward pass count
        self._counted = self._capturing = False
        self._recorded = 0  # buckets that the graph which is being captured has an event of
        self._stream: Any = None
        self.overlapped = len(whole) == len(given)
        if self.overlapped:
            me = ref(self)  # Python cannot collect what a parameter's hooks hold
            for index, bucket in enumerate(self.buckets):
                for parameter in bucket.parameters:
                    hook = partial(_accumulated, me, index)
                    parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    def __str__(self) -> str:
        count = len(self.buckets)
        when = "while the backward pass runs" if self.overlapped else "after the backward pass"
        return f"{count} bucket{'s' * (count != 1)} {when}"

    @contextmanager
    def filled(self, *, last: bool, keep: bool) -> Iterator[None]:
        """Around a backward pass. When the `last` one of an update has ended, every exchange has begun.

        `keep`: gradients stay where they are in memory from one update to the next, as a graph needs it.
        """
        self._capturing = _is_capturing()
        if last or self._capturing:
            self._arm()
        try:
            yield
        finally:
            self._nodes = None
        if self._capturing:
            for bucket in self.buckets[self._recorded :]:  # what no gradient reaches
                _record(bucket)
        elif last:
            while self.begun < len(self.buckets):
                self._begin()
        elif keep:
            for bucket in self.buckets[self.begun :]:
                bucket.pack()

    def wait(self, *, keep: bool) -> None:
        """Let gradients be the sums over ranks. What has not begun by now was filled by the replay of a graph."""
        if self.begun < len(self.buckets):
            assert not self.begun  # after a failed pass nothing is replayed
            for bucket in self.buckets:
                with self._after(bucket):
                    self._begin()
        for bucket in self.buckets:
            bucket.work.wait()
            bucket.work = None
            bucket.place()
            if not keep:
                bucket.flat = None  # gradients hold its memory until they are dropped
        self.begun = 0

    def _arm(self) -> None:
        self._recorded, self._counted = 0, False
        # Only now: a node that outlived its pass would bind the next one, which may be captured, to this one's stream.
        self._nodes = [[get_gradient_edge(p).node for p in b.parameters if p.requires_grad] for b in self.buckets]

    def accumulated(self, index: int) -> None:
        """A backward pass has reached a parameter of this bucket."""
        if self._nodes is None:
            return
        if not self._counted:  # only within the pass can be said which parameters it reaches
            for each, nodes in zip(self.buckets, self._nodes, strict=True):
                each.missing = sum(map(torch._C._will_engine_execute_node, nodes))
            self._counted = True
        self.buckets[index].missing -= 1
        if self._capturing:
            while self._recorded < len(self.buckets) and not self.buckets[self._recorded].missing:
                _record(self.buckets[self._recorded])
                self._recorded += 1
        else:
            while self.begun < len(self.buckets) and not self.buckets[self.begun].missing:
                self._begin()

    def _begin(self) -> None:
        bucket = self.buckets[self.begun]
        bucket.work = dist.all_reduce(bucket.pack(), async_op=True)
        self.begun += 1

    def _after(self, bucket: "_Bucket") -> Any:
        """A block in which what is launched waits for the bucket, and not for the rest of the graph."""
        if bucket.event is None:
            return nullcontext()
        self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._stream.wait_event(bucket.event)
        return torch.cuda.stream(self._stream)


class _Bucket:
    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters, self.starts = parameters, _starts(parameters)
        self.flat: Tensor | None = None
        self.missing = 0  # gradients that the pass has yet to reach
        self.work: Any = None  # the exchange that has begun
        self.event: Any = None  # recorded by graphs where the bucket is full

    def pack(self) -> Tensor:
        """Move gradients into `flat`, those that are not there already; where there is none, it is zero."""
        first = self.parameters[0]
        if self.flat is None:
            self.flat = torch.zeros(self.starts[-1], dtype=first.dtype, device=first.device)
        given = [(p, start) for p, start in self._gradients() if not self._is_placed(p, start)]
        if given:
            places = [self._view(p, start) for p, start in given]
            torch._foreach_copy_(places, [p.grad for p, _ in given])  # type: ignore[misc]
            for (parameter, _), place in zip(given, places, strict=True):
                parameter.grad = place
        return self.flat

    def place(self) -> None:
        """Let gradients be those of `flat`; a pass that was done again has made others."""
        for parameter, start in self._gradients():
            if not self._is_placed(parameter, start):
                parameter.grad = self._view(parameter, start)

    def _gradients(self) -> Iterator[tuple[nn.Parameter, int]]:
        return (each for each in zip(self.parameters, self.starts, strict=False) if each[0].grad is not None)

    def _is_placed(self, parameter: nn.Parameter, start: int) -> bool:
        assert self.flat is not None
        assert parameter.grad is not None
        return parameter.grad.data_ptr() == self.flat.data_ptr() + start * self.flat.element_size()

    def _view(self, parameter: nn.Parameter, start: int) -> Tensor:
        assert self.flat is not None
        return self.flat.as_strided(parameter.size(), parameter.stride(), start)  # optimizers want the weight's order


def _accumulated(buckets: "ref[GradientBuckets]", index: int, _: nn.Parameter) -> None:
    mine = buckets()
    if mine:
        mine.accumulated(index)


def _record(bucket: _Bucket) -> None:
    bucket.event = bucket.event or torch.cuda.Event(external=True)  # type: ignore[no-untyped-call]
    bucket.event.record()


def _is_capturing() -> bool:
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()  # type: ignore[no-untyped-call]


def _cut(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Runs of one type, of up to SIZE bytes."""
    runs: list[list[nn.Parameter]] = []
    held, kind = 0, None
    for parameter in parameters:
        held += parameter.numel() * parameter.element_size()
        if held > SIZE or kind != (parameter.dtype, parameter.device):
            runs.append([])
            held, kind = parameter.numel() * parameter.element_size(), (parameter.dtype, parameter.device)
        runs[-1].append(parameter)
    return runs


def _starts(parameters: list[nn.Parameter]) -> list[int]:
    """Where each begins, and after the last the length of all."""
    starts = [0]
    for parameter in parameters:
        starts.append(starts[-1] + -(-parameter.numel() // ALIGNED) * ALIGNED)
    return starts
