"""The inputs of a run that it does not hold itself: data, weights of other runs, pretrained files.

It is recorded when a run begins and compared when it continues: what has changed is not trained on unasked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxflow_exp import files
from fluxflow_exp.config import autoencoder

if TYPE_CHECKING:
    from fluxflow_exp.data.protocols import DataSet

# Where a run's data are at hand, torch is: looking at records does without.

LOADED = (".json", ".txt", ".model", ".safetensors", ".bin")  # of a pretrained part's folder
SHOWN = {"names": "names", "captions": "captions", "files": "sizes of files"}

Contents = dict[str, Any]


def upstream(values: dict[str, Any], steps: Iterable[str] | None = None) -> dict[str, str]:
    """File → digest of the weights that steps, by default all, start from."""
    from fluxflow_exp.models import weights  # torch

    wanted = values["stage"]["steps"] if steps is None else {name: values["stage"]["steps"][name] for name in steps}
    sources = [step["init_from"] for step in wanted.values() if step["init_from"]]
    found = {path for source in sources for path in weights.find_parts(Path(source).expanduser()).values()}
    return _digests(found)


def pretrained(values: dict[str, Any], steps: Iterable[str] | None = None) -> dict[str, str]:
    """File → digest of what losses and parts are loaded from, where the configuration names files."""
    named = values["stage"]["steps"] if steps is None else steps
    losses = [loss for name in named for loss in values["stage"]["steps"][name]["trainer"].values()]
    given = [Path(loss["weights_file"]) for loss in losses if isinstance(loss, dict) and loss.get("weights_file")]
    loaded = (*LOADED, ".jinja") if values["model"]["text_encoder"].get("template") == "chat" else LOADED
    model = values["model"]
    halves = [model[part] for part in ("compressor", "expander") if autoencoder.begins_trained(model[part])]
    places = [model["text_encoder"].get("name"), *(half["weights_path"] for half in halves)]
    places += [loss.get("teacher_path") for loss in losses if isinstance(loss, dict)]
    folders = {Path(name or "").expanduser() for name in places}
    inside = [path for folder in folders if folder.name and folder.is_dir() for path in folder.iterdir()]
    found = {*(path.expanduser() for path in given), *(path for path in inside if path.suffix in loaded)}
    return _digests({path for path in found if path.is_file()})  # who loads one that is not there says so


FILES: dict[str, Callable[..., dict[str, str]]] = {"upstream": upstream, "pretrained": pretrained}


def changed_upstream(record: dict[str, Any]) -> list[str]:
    """Weights of other runs that a run started from and that are not the same any more; one line each."""
    return [
        f"{name} {'has changed' if os.path.isfile(name) else 'is gone'}"
        for name, digest in record["upstream"].items()
        # A device would be read for ever.
        if not os.path.isfile(name) or not digest.endswith(files.digest(Path(name)))
    ]


class Inputs:
    """The inputs that the steps of a run with the configuration `values` would have now; `data` by step."""

    def __init__(self, values: dict[str, Any], data: dict[str, DataSet]) -> None:
        self.values, self.data = values, data
        self._seen: dict[int, Contents | None] = {}  # steps share data sets, and each is looked through once
        self._digests: dict[int, str | None] = {}

    def changed_data(self, record: dict[str, Any], steps: Iterable[str]) -> dict[str, str]:
        """Step → what is not as it was when the run began; of what was not recorded then, nothing is said."""
        found = {}
        for name in steps:
            then, now = record.get("contents", {}).get(name), self.contents(name)
            if then and now and then != now:
                found[name] = _difference(then, now)
            digest = record.get("data", {}).get(name)
            if digest and not then and digest != self.digest(name):  # counts were not recorded then
                found[name] = f"another digest ({digest} then, {self.digest(name)} now)"
        return found

    def changed_files(self, record: dict[str, Any], steps: list[str]) -> list[str]:
        """Files that `steps` load and that are not the ones of the run's beginning; a moved one is the same."""
        recorded = {kind: read for kind, read in FILES.items() if kind in record and steps}
        return [
            f"{path} has changed"
            for kind, read in recorded.items()
            for path, digest in read(self.values, steps).items()
            if not _is_last(digest, record[kind])
        ]

    def remember(self, record: dict[str, Any]) -> None:
        """Enter the data in the record of a run, where nothing is known of them yet."""
        record.setdefault("data", {name: self.digest(name) for name in self.data})
        changed = self.changed_data(record, self.data)
        known = record.setdefault("contents", {})
        known |= {name: self.contents(name) for name in self.data if name not in {**known, **changed}}

    def accept(self, record: dict[str, Any], steps: list[str]) -> None:
        """Enter what `steps` go on with after what they had: what was exchanged on the way equals no other run's."""
        for name in self.changed_data(record, steps):
            record["data"][name] = f"{record['data'][name]}, then {self.digest(name)}"
            record.setdefault("contents", {})[name] = self.contents(name)
        for kind in FILES.keys() & record.keys():
            for path, digest in FILES[kind](self.values, steps).items():
                if not _is_last(digest, record[kind]):
                    before = record[kind].get(path)
                    record[kind][path] = f"{before}, then {digest}" if before else digest

    def contents(self, step: str) -> Contents | None:
        """Count the samples to train on and to be judged by, with digests of what they are. None: a stream."""
        data = self.data[step]
        if id(data) not in self._seen:
            self._seen[id(data)] = _contents(data)
        return self._seen[id(data)]

    def digest(self, step: str) -> str | None:
        """Return the digest of all that the step sees of its data, by which runs are compared. None: a stream."""
        data = self.data[step]
        if id(data) not in self._digests:
            from fluxflow_exp.data.build import digest_of

            self._digests[id(data)] = digest_of(data)
        return self._digests[id(data)]


def _contents(data: DataSet) -> Contents | None:
    from fluxflow_exp.data.protocols import Stream, together

    # A data set of somebody's own may not tell: its runs are compared by their digest alone.
    if isinstance(data.train, Stream) or not all(hasattr(each, "contents") for each in (data.train, data.validation)):
        return None
    train, held_out = data.train.contents(), data.validation.contents()
    _, *digests = together([train, held_out])
    return {"training": train.samples, "held_out": held_out.samples, **dict(zip(SHOWN, digests, strict=True))}


def _difference(then: Contents, now: Contents) -> str:
    counts = ("training", "held_out")
    if all(then[key] == now[key] for key in counts):
        differing = [said for key, said in SHOWN.items() if then[key] != now[key]]
        return f"as many samples as then, with other {' and '.join(differing)}"
    return (
        f"{then['training']} training and {then['held_out']} held-out samples then, "
        f"{now['training']} and {now['held_out']} now"
    )


def _is_last(digest: str, recorded: dict[str, str]) -> bool:
    """Whether a file with this digest is what a run was last made from, wherever it lay."""
    return any(each.endswith(digest) for each in recorded.values())


def _digests(paths: set[Path]) -> dict[str, str]:
    return {str(path.absolute()): files.digest(path) for path in sorted(paths)}
