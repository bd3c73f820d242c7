"""Reading ahead by threads: for mapped files, of which a process of its own would have to send a copy."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TypeVar

import torch

from fluxflow_exp.data.protocols import Rows

THREADS, AHEAD = 4, 8

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(read: Callable[[Item], Result], items: Iterable[Item], *, gpu: bool) -> Iterator[Result]:
    """`read` of each item, in order; a few items are always on their way. `gpu`: `read` pins memory."""
    # Otherwise a thread would wake the first GPU, whichever this process has.
    start = partial(torch.cuda.set_device, torch.cuda.current_device()) if gpu else None
    waiting: deque[Future[Result]] = deque()
    left = iter(items)
    with ThreadPoolExecutor(THREADS, initializer=start) as pool:
        waiting.extend(pool.submit(read, item) for item in islice(left, AHEAD))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(read, item) for item in islice(left, 1))
            yield result


def pinned(rows: Rows) -> Rows:
    """The same, where a GPU can fetch it while the host goes on."""
    tokens = rows.tokens and rows.tokens._replace(tokens=rows.tokens.tokens.pin_memory())
    features = None if rows.features is None else rows.features.pin_memory()
    return rows._replace(values=rows.values.pin_memory(), tokens=tokens, features=features)
