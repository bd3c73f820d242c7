"""The batches that a step goes on with after a restart: its workers begin to read while its parts are built."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from fluxflow_exp.data.loader import Batch, begin_batches
from fluxflow_exp.data.protocols import Source, Stored, Stream
from fluxflow_exp.machine.hardware import Machine
from fluxflow_exp.machine.ranks import Ranks
from fluxflow_exp.step_length import Length


class EarlyBatches:
    """Batches of `source` that are being read, for whoever asks for the same; inside a `with` block."""

    def __init__(self, source: Source | Stream, how: dict[str, Any]) -> None:
        self.source, self.how = source, how
        self._open = ExitStack()
        self._batches: Iterator[Batch] | None = self._open.enter_context(begin_batches(source, **how))

    def take(self, source: Source | Stored | Stream, how: dict[str, Any]) -> Generator[Batch] | None:
        """What `load_batches` would give for these arguments, once; None, and an end to reading: it is others."""
        batches, self._batches = self._batches, None
        if batches is None:
            return None
        if source is not self.source or how != self.how:
            self.close()
            return None
        return self._handed_over(batches)

    def close(self) -> None:
        """End the workers, unless that has been done."""
        self._open.close()

    def _handed_over(self, batches: Iterator[Batch]) -> Generator[Batch]:
        with self._open:
            yield from batches


@contextmanager
def reading_early(source: Source | Stream, how: dict[str, Any]) -> Iterator[EarlyBatches | None]:
    """Begin to read; None where this process would have to do it itself."""
    if not how["num_workers"]:
        yield None
        return
    early = EarlyBatches(source, how)
    try:
        yield early
    finally:
        early.close()


def arguments(
    *, first: int, last: int, seed: int, length: Length, num_workers: int, machine: Machine, ranks: Ranks, img_size: int
) -> dict[str, Any]:
    """Those of `load_batches` for the updates [first, last) of a step of this `length`."""
    return {
        "seed": seed,
        "batch_size": length.batch_size,
        "first_update": first,
        "last_update": last,
        "num_workers": num_workers,
        "pin_memory": machine.device.type == "cuda",
        "rank": ranks.rank,
        "ranks": ranks.count,
        "image_bytes": 3 * img_size**2,
    }
