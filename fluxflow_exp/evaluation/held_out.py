"""The held-out images that a model is measured on, read in batches, and known by their digest."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import track
from torch import Tensor

from fluxflow_exp.config import published
from fluxflow_exp.config.compose import typed
from fluxflow_exp.config.overrides import values_of
from fluxflow_exp.data.build import build_data
from fluxflow_exp.data.loader import Batch
from fluxflow_exp.data.protocols import DataSet
from fluxflow_exp.data.reading import read_all
from fluxflow_exp.errors import UserError
from fluxflow_exp.evaluation import digests
from fluxflow_exp.evaluation.features import Features
from fluxflow_exp.evaluation.flow_loss import BATCH
from fluxflow_exp.evaluation.measures import MEASURES
from fluxflow_exp.preflight import targets
from fluxflow_exp.preflight.data import path_problems
from fluxflow_exp.run import frozen


class HeldOut:
    """The first `count` held-out samples of `data`, without augmentation; unreadable ones are left out."""

    def __init__(self, data: DataSet, *, count: int) -> None:
        self.data, self.count = data, min(count, len(data.validation))
        self.bad: list[tuple[str, str]] = []
        self.captions: list[str] = []
        seen = digests.Images()
        for batch in self.batches("Reading held-out images"):
            seen.add(batch.images, batch.captions)
            self.captions += batch.captions
            self.bad += batch.bad
        self.images_digest, self.pairs_digest = seen.images, seen.with_captions
        self._features: Tensor | None = None

    def __len__(self) -> int:
        return len(self.captions)

    def batches(self, description: str) -> Iterator[Batch]:
        """Yield batches of 64 images, with a bar."""
        starts = range(0, self.count, BATCH)
        for first in progress(starts, description, total=len(starts)):
            indices = range(first, min(first + BATCH, self.count))
            yield read_all(self.data.validation, indices, seed=0)  # nothing is drawn without augmentation

    def features(self, network: Features) -> Tensor:
        """(n, width), made once."""
        if self._features is None:
            made = [network(batch.images) for batch in self.batches("Features of held-out images")]
            self._features = torch.cat(made)
        return self._features


def check_count(held_out: HeldOut, name: str) -> None:
    """UserError: a measure of sets needs more images."""
    fewest = MEASURES[name].fewest
    if len(held_out) < fewest:
        raise UserError(f"{name} compares sets of at least {fewest} images, not {len(held_out)}: raise --images")


def progress(parts: Any, description: str, *, total: int) -> Iterator[Any]:
    """Pass parts on with a bar on standard error, or where that is no terminal a line."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(parts, description=description, total=total, console=console, transient=True)
        return
    print(f"{description} …", file=sys.stderr, flush=True)
    yield from parts


def data_of(values: dict[str, Any], step: str, overrides: list[str]) -> DataSet:
    """The data set of `step` of the frozen configuration `values`, with `overrides` of its data.

    UserError: the overrides are not of data, or make no data set.
    """
    foreign = [word for word in overrides if not re.match(r"\+?data[.=]", word)]
    if foreign:
        raise UserError(f"{', '.join(foreign)}: of a run's configuration only data can be overridden (data.KEY=VALUE)")
    only = values["stage"]["steps"][step]
    data = values["data"]
    chosen = any(word.startswith("data=") for word in overrides)
    if chosen:
        sized = [] if any("data.img_size=" in word for word in overrides) else [f"data.img_size={_img_size(data)}"]
        data, only = values_of([*overrides, *sized])["data"], {**only, "data": None}
    elif overrides:
        laid = OmegaConf.merge({"data": data}, OmegaConf.from_dotlist([word.lstrip("+") for word in overrides]))
        data = OmegaConf.to_container(laid)["data"]  # type: ignore[index, call-overload]
        theirs = {word for _, word in published.addresses(values["data"])}
        published.allow({word for _, word in published.addresses(data)} - theirs)  # the overrides are the user's own
    frozen.check({"data": data, "stage": {"steps": {step: {"data": only["data"]}}}}, "the run's configuration")
    problems = targets.problems(data, "data.") + path_problems(data, "data")
    if problems:
        raise UserError(*problems)
    config = typed({**values, "data": data, "stage": {**values["stage"], "steps": {step: only}}})
    found: DataSet = build_data(config)[step]
    return found


def _img_size(data: dict[str, Any]) -> Any:
    """Return the image size of a data set, or of the first of several."""
    return data["img_size"] if "img_size" in data else next(iter(data["datasets"].values()))["img_size"]
