"""A measured number with all that it depends on, kept in `RUN/evaluations/<weights>.json`.

Two numbers may be held against each other only where all of it but the weights is alike (`comparable`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxflow_exp import __version__, files
from fluxflow_exp.console import aligned
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import clock

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
FOLDER = "evaluations"
SHOWN_DIGITS = 8  # of a digest, in messages
TELLS = 0.5  # of `reconstructed`: where it is less, the value tells of the autoencoder


# One field for each key of the record, which is flat JSON.
@dataclass(frozen=True)
class Record:
    """`value` of `metric` for the weights of `step` after `update`."""

    metric: str
    value: float
    unit: str | None  # dB, or none
    lower_is_better: bool
    step: str
    update: int | None  # of the step; None where no run says it
    ema: bool  # averaged weights, or those last trained
    n: int  # images measured
    seed: int | None  # of the noise; None where none is drawn
    guidance: float | None  # of samples
    img_size: int  # pixels a side
    implementation: str  # library and version
    features: dict[str, str] | None  # name and digest of the network that it compares in
    weights_digest: str  # SHA-256 of the parts that the value depends on
    reference_digest: str  # of the held-out images, and of their captions where they matter
    sampler: str | None  # name and steps, of samples
    precision: str
    device: str
    data: list[str]  # overrides of the run's own data; none: its own held-out split
    chance: float | None = None  # the value of pictures that have nothing to do with their prompts, where it has one
    reconstructed: float | None = None  # of precision and recall: that of the held-out images' own reconstructions
    within: str | None = None  # of retrieval: what captions have alike of the images that it looks at
    training: dict[str, str] | None = None  # name and digest of the training images that it compares with
    last_share: float | None = None  # of weights between the best point and `update`: how much is of the latter
    nearest: dict[str, Any] | None = None  # of copies: distances to the training images, and the closest pairs


# Field → how a reader calls it. Weights, step and device may differ: they are what is compared, or do not matter.
LIKE = {
    "metric": "metric",
    "img_size": "image size",
    "reference_digest": "held-out images (or captions)",
    "n": "number of images",
    "seed": "seed of the noise",
    "guidance": "guidance",
    "sampler": "sampler",
    "ema": "averaged weights",
    "last_share": "share of the last weights",
    "features": "features",
    "within": "images to retrieve from",
    "training": "training images",
    "implementation": "implementation",
    "precision": "precision",
}


def comparable(a: Record, b: Record) -> str | None:
    """Why the two numbers may not be compared; None: they may."""
    differing = [
        f"{said} ({_shown(getattr(a, name))} and {_shown(getattr(b, name))})"
        for name, said in LIKE.items()
        if _alike(getattr(a, name)) != _alike(getattr(b, name))
    ]
    return f"not the same {', '.join(differing)}" if differing else None


def write(path: Path, weights: Path, records: list[Record]) -> None:
    """Keep `records` in `path`: they replace those of the same kind there; others stay if the weights are the same."""
    made_with = files.digest(weights)
    kept: list[Record] = []
    if path.exists() and files.read_json(path).get("digest") == made_with:
        new = {_key(record) for record in records}
        kept = [record for record in read(path) if _key(record) not in new]
    files.write_json(
        path,
        {
            "format": FORMAT,
            "weights": str(weights),
            "digest": made_with,
            "date": clock.date(),
            "version": __version__,
            "results": [asdict(record) for record in [*kept, *records]],
        },
    )


def write_pictures(folder: Path, pictures: Mapping[str, Tensor]) -> None:
    """Keep pictures that records in `folder` name, uint8 (3, height, width); those that none names any more go."""
    from fluxflow_exp.pictures import save  # torch

    for name, picture in pictures.items():
        save(picture, folder / name)
    named = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.json"))
    for path in folder.glob("copy_*.webp"):
        if path.name not in named:
            path.unlink()


def read(path: Path) -> list[Record]:
    """UserError: the file is of another format."""
    found = files.read_json(path)
    if found["format"] != FORMAT:
        raise UserError(f"{path} has evaluation format {found['format']}; this version reads {FORMAT}. Evaluate again")
    names = [field.name for field in fields(Record)]
    return [Record(**{name: each.get(name) for name in names}) for each in found["results"]]


def of_run(run: Path) -> list[Record]:
    """The records of a run's final weights, or where there are none those of its other weights."""
    final = run / FOLDER / "final.json"
    paths = [final] if final.exists() else sorted((run / FOLDER).glob("*.json"))
    return [record for path in paths for record in read(path)]


def select(records: list[Record], metric: str) -> list[Record]:
    """Those of averaged weights that `metric` names: `fd`, or `fd@4` at guidance 4."""
    name, _, guidance = metric.partition("@")
    return [
        record for record in records if record.ema and record.metric == name and guidance in ("", _guidance(record))
    ]


def names(records: list[Record]) -> list[str]:
    """Return the names that `select` takes, for messages."""
    return list(
        dict.fromkeys(
            record.metric if record.guidance is None else f"{record.metric}@{_guidance(record)}"
            for record in records
            if record.ema
        )
    )


def table(records: list[Record]) -> str:
    """For reading: a line a metric and guidance, a column a kind of weights."""
    kinds = [kind for kind in (True, False) if any(record.ema is kind for record in records)]
    rows: dict[tuple[str, float | None], dict[bool, Record]] = {}
    for record in records:
        rows.setdefault((record.metric, record.guidance), {})[record.ema] = record
    lines = [["metric", "guidance", *("averaged" if kind else "raw" for kind in kinds), "", "n", "features"]]
    for (metric, guidance), found in rows.items():
        first = next(iter(found.values()))
        better = "lower" if first.lower_is_better else "higher"
        lines.append(
            [
                metric,
                "" if guidance is None else f"{guidance:g}",
                *(f"{found[kind].value:.4g}" if kind in found else "" for kind in kinds),
                f"{first.unit + ', ' if first.unit else ''}{better} is better"
                + (f" (chance: {first.chance:.2g})" if first.chance is not None else "")
                + (f" (reconstructions: {first.reconstructed:.2g})" if first.reconstructed is not None else ""),
                str(first.n),
                f"{first.features['name']} {first.features['digest'][:SHOWN_DIGITS]}" if first.features else "",
            ]
        )
    return "\n".join(aligned(lines))


def remarks(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Where records, as they are written, say little of what was drawn, and why: a sentence, or none."""
    found = {each["metric"]: each["reconstructed"] for each in records if each.get("reconstructed") is not None}
    short = {name: value for name, value in found.items() if value < TELLS}
    if not short:
        return []
    values = " and ".join(f"{value:.2g}" for value in short.values())
    return [
        f"{' and '.join(short)} {'says' if len(short) == 1 else 'say'} little of what is drawn here: the held-out "
        f"images' own reconstructions have {values}, and no drawing can be expected to have more"
    ]


def _guidance(record: Record) -> str | None:
    """As a metric's name has it behind the @."""
    return None if record.guidance is None else f"{record.guidance:g}"


def _key(record: Record) -> tuple[Any, ...]:
    return (record.step, tuple(record.data), *(_alike(getattr(record, name)) for name in LIKE))


def _alike(value: Any) -> Any:
    """A network is its weights, wherever its folder is."""
    return value["digest"] if isinstance(value, dict) else value


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['name']} {value['digest'][:SHOWN_DIGITS]}"
    return value[:SHOWN_DIGITS] if isinstance(value, str) and len(value) == 64 else str(value)
