"""What is to be checked, and what a run would make of it: from plain arguments, or from the words of a training run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fluxflow_exp.config.compose import typed
from fluxflow_exp.config.overrides import values_of
from fluxflow_exp.data.captions_file import FORMS, SIDECARS
from fluxflow_exp.data.folder_notes import no_folder
from fluxflow_exp.data.sidecars import SUFFIXES
from fluxflow_exp.errors import UserError
from fluxflow_exp.preflight import parts
from fluxflow_exp.preflight.data import path_problems
from fluxflow_exp.preflight.remarks import Cutting
from fluxflow_exp.step_plan import trainer_class

FOLDER = "fluxflow_exp.data.image_folder.ImageFolder"
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # what ImageFolder looks for


class Step(NamedTuple):
    """A step of training on the pictures."""

    name: str
    batch_size: int
    epochs: int
    max_updates: int | None = None


class Bytes:
    """The reading of `model/text_encoder=byte`, without one."""

    unit = "bytes"

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length

    def lengths(self, captions: list[str]) -> list[int]:
        """The bytes of each caption."""
        return [len(caption.encode()) for caption in captions]


# One field for each thing that a report depends on.
@dataclass(frozen=True)
class Wanted:
    """A folder of pictures, its captions, and how it would be trained on."""

    folder: Path
    captions_file: str | None  # None: there are no captions
    text_encoder: Cutting | None  # None: none reads the captions, or it reads them to their end
    img_size: int = 256
    max_ratio: float | None = None
    fraction: float = 0.1
    held_out_file: str | None = None
    prefix: str | None = None
    reduced_min_sizes: list[int] | None = None
    max_bad_fraction: float = 0.05
    steps: list[Step] = field(default_factory=list)


def of_folder(
    folder: Path, captions_file: str | None, *, img_size: int, text_limit: int, batch_size: int, epochs: int
) -> Wanted:
    """The pictures of a folder with the captions that are given, or else found there. UserError: no such folder."""
    folder = folder.expanduser()
    if not folder.is_dir():
        raise UserError(no_folder(folder))
    given = captions_file or _found_in(folder)
    return Wanted(folder, given, Bytes(text_limit), img_size, steps=[Step("", batch_size, epochs)])


def of_overrides(words: list[str], *, config_dir: str | None = None) -> Wanted:
    """What a training run with these words would read. UserError: they are wrong, or it would read no folder."""
    values = values_of(words, config_dir=config_dir)
    data = values["data"]
    if data.get("_target_") != FOLDER:
        raise UserError("only the pictures of a folder are checked: say data=image_folder, one set at a time")
    unset = [f"data.{key} is not set" for key in ("data_path", "captions_file") if data.get(key) in (None, "???")]
    if unset and data.get("captions_file") in (None, "???"):
        unset[-1] += f": it is {FORMS}"
    wrong = unset or path_problems(data, "data")
    if wrong:
        raise UserError(*wrong)
    config = typed(values)
    steps = config.stage.steps
    reading = any(trainer_class(step).CACHES for step in steps.values())  # flow steps, which read captions
    encoder: Any = parts.built("text_encoder", config.model) if reading else None
    return Wanted(
        Path(data["data_path"]).expanduser(),
        data["captions_file"],
        encoder if isinstance(encoder, Cutting) else None,
        data["img_size"],
        data["buckets"],
        data["validation_fraction"],
        data.get("held_out_file"),
        data["fixed_prompt_prefix"],
        data["reduced_min_sizes"],
        data["max_bad_fraction"],
        [Step(name, step.batch_size, step.n_epochs, step.max_updates) for name, step in steps.items()],
    )


def _found_in(folder: Path) -> str | None:
    """The captions that stand in a folder: metadata, else texts beside pictures; None: neither."""
    there = [folder / name for name in METADATA if (folder / name).is_file()]
    if there:
        return str(there[0])
    beside = any(path.suffix.lower() in SUFFIXES for path in folder.rglob("*"))
    return SIDECARS[0] if beside else None
