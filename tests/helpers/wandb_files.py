"""Reading what W&B has written offline: records in the log format of LevelDB, each a protocol buffer."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32768
HEADER = struct.Struct("<IHB")  # checksum, length, type
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def history(run: Path) -> list[dict[str, Any]]:
    """The history rows in all W&B files of a run folder, in the order in which they were written."""
    return [
        {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in _all(run)
        if record.WhichOneof("record_type") == "history"
    ]


def group(run: Path) -> str:
    """The group that the run in a folder was recorded in."""
    return next(str(record.run.run_group) for record in _all(run) if record.WhichOneof("record_type") == "run")


def _all(run: Path) -> Iterator[Any]:
    for path in sorted((run / "wandb").glob("offline-run-*/*.wandb")):
        yield from _records(path.read_bytes())


def _records(data: bytes) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    place, parts = 7, b""  # after the file's own header
    while place + HEADER.size <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER.size:
            place += left
            continue
        _, length, kind = HEADER.unpack_from(data, place)
        if kind not in (FULL, FIRST, MIDDLE, LAST):
            return
        start = place + HEADER.size
        parts += data[start : start + length]
        place = start + length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            record.ParseFromString(parts)
            parts = b""
            yield record
