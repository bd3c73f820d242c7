"""The fields of run.json and of metric rows, so that a changed one is known by its first field that is another
thing."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

Count = Annotated[int, Field(ge=0, le=2**53)]
Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]


def _instant(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without its zone")
    return text


Instant = Annotated[str, AfterValidator(_instant)]


@dataclass
class _Lost:
    seconds: Seconds
    updates: Count


@dataclass
class _FirstUpdate:
    seconds: Seconds
    phases: dict[str, Seconds]
    graphs: dict[str, Count]


# One field for each key of a start in run.json.
@dataclass
class _Start:
    time: Instant = ""
    after: str | None = None
    machine: str = ""
    devices: Count = 1
    seconds: Seconds = 0.0
    spent: dict[str, Seconds] = field(default_factory=dict)
    id: str | None = None
    lost: _Lost | None = None
    first_update: _FirstUpdate | None = None


@dataclass
class _Best:
    update: Count
    metric: str
    value: Number


# One field for each key of a step in run.json.
@dataclass
class _Step:
    updates: Count
    final: dict[str, float | None] = field(default_factory=dict)
    epochs: Count = 0
    images: Count = 0
    micro_batch: Count = 0
    seconds: Seconds = 0.0
    images_per_second: float | None = None
    parameters: dict[str, Count] = field(default_factory=dict)
    peak_gib: float | None = None
    peak_gib_by_rank: list[float | None] = field(default_factory=list)
    ended_by: str | None = None
    best: _Best | None = None
    verdict: str | None = None
    standing: str | None = None


@dataclass
class _Length:
    updates: Count
    updates_per_epoch: Annotated[int, Field(ge=1, le=2**53)] = 1
    batch_size: Annotated[int, Field(ge=1, le=2**53)] = 1
    micro_batch: Count = 1


@dataclass
class _Fit:
    images: Count
    on: dict[str, Any]


@dataclass
class _TimedStep:
    updates: Annotated[int, Field(ge=1, le=2**53)]
    seconds: Seconds


@dataclass
class _Tally:
    update: Count
    rows: Count
    pictures: dict[str, Count]


@dataclass
class _Contents:
    training: Count
    held_out: Count
    names: str
    captions: str
    files: str


@dataclass
class _OwnFile:
    file: str
    sha256: str


# One field for each key of run.json.
@dataclass
class _Record:
    """`run.json`. What came later than the first runs has a default, here and below."""

    format: Literal[1]
    name: str
    overrides: list[str]
    commit: str | None
    changed_code: str | None
    upstream: dict[str, str]
    made_with: dict[str, str] | None
    started: bool
    restarts: Count
    kills: Count
    closed: str | None
    wall_seconds: Seconds
    steps: dict[str, _Step]
    starts: list[_Start] = field(default_factory=list)
    id: str = ""
    planned: dict[str, _Length] = field(default_factory=dict)
    data: dict[str, str | None] = field(default_factory=dict)
    contents: dict[str, _Contents | None] = field(default_factory=dict)
    pretrained: dict[str, str] = field(default_factory=dict)
    micro_batch: dict[str, _Fit] = field(default_factory=dict)
    minutes: dict[str, _TimedStep] = field(default_factory=dict)
    logged: dict[str, _Tally] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)
    own_code: dict[str, Annotated[list[_OwnFile], Field(min_length=1)]] = field(default_factory=dict)
    wandb_id: str | None = None


# One field for each key of a row.
@dataclass
class _Row:
    timestamp: str
    kind: str
    epoch: Count
    batch: Count
    global_step: Count
    metrics: dict[str, Number | None]
    learning_rates: dict[str, Number]
    extras: dict[str, Number]
    pictures: dict[str, str] = field(default_factory=dict)
    tiles: list[str] = field(default_factory=list)
    drawn: str = ""
    warnings: dict[str, str] = field(default_factory=dict)


def record_problem(record: dict[str, Any]) -> str | None:
    """The first field of a run's record that is not as a run writes it, in words."""
    return _problem(_adapter(_Record), json.dumps(record))


def row_problem(line: bytes) -> str | None:
    """The same for a line of metric rows."""
    return _problem(_adapter(_Row), line)


def _problem(adapter: TypeAdapter[Any], text: str | bytes) -> str | None:
    try:
        adapter.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where, reason = ".".join(map(str, first["loc"])), first["msg"]
        return f"{where or 'it'}: {reason[0].lower()}{reason[1:]}"
    return None


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
