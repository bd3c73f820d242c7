"""The folder of a run: its files, its lock, and where its copy is."""

from __future__ import annotations

import inspect
import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fluxflow_exp import files
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import clock
from fluxflow_exp.run import written
from fluxflow_exp.run.frozen import read_config
from fluxflow_exp.run.lock import FolderLock, taken

if TYPE_CHECKING:
    from fluxflow_exp.data.protocols import DataSet

FORMAT = 1
# Ranks of a run that was killed need a moment to end, and a node that SLURM gave up may take longer.
LOCK_SECONDS = 120.0 if "SLURM_JOB_ID" in os.environ else 5.0


@dataclass(frozen=True)
class Mirror:
    """The place of a run's second copy: below `root`, on a volume that outlives the machine."""

    root: Path
    run: str  # the run's name, of a sweep's job with the sweep's before it

    @classmethod
    def of(cls, values: dict[str, Any], swept: str = "") -> Mirror | None:
        """Return what a resolved configuration asks for; `swept` is the name of a sweep's job folder."""
        root = values["checkpoint"]["mirror"]
        run = run_path(values, swept).relative_to(Path(values["output_root"]).expanduser())
        return cls(Path(root).expanduser(), run.as_posix()) if root else None


class RunFolder:
    def __init__(self, path: Path, *, mirror: Mirror | None = None, first: bool = True) -> None:
        """`first`: this is the first rank, the one that writes."""
        self.path, self.mirror, self.first = path, mirror, first
        self.checkpoints, self.weights = path / "checkpoints", path / "weights"
        self.graph, self.samples = path / "graph", path / "samples"
        self.config, self.record, self.summary = path / "config.yaml", path / "run.json", path / "summary.json"
        self.digests, self.bad_samples = path / "digests.json", path / "bad_samples.jsonl"
        self.log, self.failure, self.submitted = path / "log.txt", path / "failure.json", path / "submitted.json"
        self.non_finite = path / "non_finite.json"  # what was not finite, if the last start ended by that
        self.closed = False  # the record says how this process ends
        self._lock = FolderLock(path)
        self._counted = time.monotonic()
        self._bad: set[str] | None = None

    def metrics(self, step: str) -> Path:
        return self.graph / f"training_metrics_{step}.jsonl"

    @property
    def parts(self) -> tuple[Path, ...]:
        """The folders in it."""
        return self.checkpoints, self.weights, self.graph, self.samples

    def exists(self) -> bool:
        return self.record.exists()

    def lacks_record(self) -> bool:
        """Whether a run was here whose record is gone: a configuration and checkpoints, and no run.json."""
        return not self.exists() and self.config.exists() and bool(files.matching(self.checkpoints, "*.pt"))

    @property
    def place(self) -> Path:
        """Where it lies: of a link where that leads, so that what is put there is what it leads to. UserError."""
        return _place(self.path)

    def create(self, config: dict[str, Any], facts: dict[str, Any]) -> None:
        for folder in (self.path, *self.parts):
            _place(folder).mkdir(parents=True, exist_ok=True)
        self._lock.hold_inside()
        if self.locked and self.exists():  # made meanwhile by who came by another name of the folder
            raise UserError(taken(self.path))
        self.freeze(config)
        origin: dict[str, Any] = {"name": self.path.name, "overrides": [], "commit": None, "changed_code": None}
        origin |= {"upstream": {}, "made_with": None}
        counts: dict[str, Any] = {"started": False, "restarts": 0, "kills": 0, "closed": None, "wall_seconds": 0.0}
        own = {"id": secrets.token_hex(4), **counts, "starts": [], "steps": {}}
        self.write_record({"format": FORMAT, **origin, **facts, **own})

    def freeze(self, config: dict[str, Any]) -> None:
        """Write the configuration that the run is held to."""
        files.write_text(self.config, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def read_record(self) -> dict[str, Any]:
        """UserError: it is not whole, or of another format."""
        if self.lacks_record():
            raise files.DamagedError(f"{self.record} is missing; the run's configuration and checkpoints are there")
        record = files.read_fields(self.record, format=int)
        if record["format"] != FORMAT:
            raise UserError(
                f"{self.path} has run format {record['format']}; this version reads {FORMAT}. Choose another name=…"
            )
        wrong = written.record_problem(record)
        if wrong:
            raise files.DamagedError(f"{self.record} is not as a run writes it: {wrong}")
        return record

    def write_record(self, record: dict[str, Any]) -> None:
        files.write_json(self.record, record)

    def check_links(self) -> None:
        """UserError: a folder of it is a link to where nothing is."""
        for each in self.parts:
            if each.is_symlink() and not each.exists():
                raise UserError(
                    f"{each} is a link to {os.path.realpath(each)}, which is not there: mount its disk; or delete the "
                    "link and make a folder in its place, which does again what is lost"
                )

    def frozen(self) -> dict[str, Any]:
        """The configuration that the run was started with. UserError: it is not there, or not whole."""
        return read_config(self.config)

    @property
    def locked(self) -> bool:
        """Whether this process holds the folder."""
        return self._lock.held

    def lock(self) -> None:
        """Hold the folder, which need not be there yet. UserError: another process trains in it.

        Where nothing can be written there is nothing to hold, and `locked` stays false.
        """
        if not self._lock.acquire(seconds=LOCK_SECONDS):
            raise UserError(taken(self.path))

    def try_lock(self) -> bool:
        """Hold the folder if no other process does; whether none did."""
        return self._lock.acquire()

    def unlock(self) -> None:
        """Let another process have the folder, if this one holds it."""
        self._lock.release()

    def count_from(self, started: float) -> None:
        """This process's time counts from `started` (clock.now) on."""
        self._counted = started

    def count_time(self, *, closing: str | None = None, spent: dict[str, float] | None = None) -> None:
        """Add the time since the last call to the run's, over restarts; `closing`: how this process ends.

        `spent`: seconds of it by purpose.
        """
        record, now = self.read_record(), clock.now()
        _add_time(record, record["starts"][-1], now - self._counted)
        sums = record["starts"][-1]["spent"]
        sums |= {purpose: round(sums.get(purpose, 0.0) + value, 3) for purpose, value in (spent or {}).items()}
        record["closed"], self.closed = closing, closing is not None
        self._counted = now
        self.write_record(record)

    def record_lost(self, seconds: float, updates: int) -> None:
        """Note what the process before this one did after its last save, and this one does again."""
        record = self.read_record()
        started = record["starts"][-1]
        started["lost"] = {"seconds": round(seconds, 3), "updates": updates}
        if started["after"] == "killed" and len(record["starts"]) > 1:  # it could not count its last seconds itself
            _add_time(record, record["starts"][-2], seconds)
        self.write_record(record)

    def record_first_update(self, facts: dict[str, Any]) -> None:
        """Note how long this process took until its first update."""
        record = self.read_record()
        record["starts"][-1]["first_update"] = facts
        self.write_record(record)

    def record_micro_batch(self, step: str, found: dict[str, Any]) -> None:
        """Keep how many `images` of `step` fit in a forward pass, since which `update`, and `on` what machine."""
        record = self.read_record()
        record.setdefault("micro_batch", {})[step] = found
        self.write_record(record)

    def read_micro_batch(self, step: str, on: dict[str, Any]) -> int | None:
        """Return what was kept for `step` if it was found `on` such a machine."""
        found = self.read_record().get("micro_batch", {}).get(step) if self.exists() else None
        return int(found["images"]) if found and found["on"] == on else None

    def in_use(self) -> bool:
        """Whether another process holds the folder."""
        return self._lock.held_elsewhere()

    def remove_leftovers(self) -> None:
        """Delete what processes that were killed had begun to write; for the holder of the folder."""
        for path in self.path.rglob("tmp-*"):
            if path.is_file() and files.is_left_over(path):
                path.unlink(missing_ok=True)

    def record_failure(self, reason: str, *, log: str | None = None) -> None:
        """Say in the folder why the run ended, and where more is told; the next start takes it away."""
        now = clock.date()
        files.write_json(self.failure, {"reason": reason, "time": now, "log": log})

    def move_aside(self) -> Path:
        """Rename the folder, so that a fresh run can take its name and place; nothing is deleted."""
        self._lock.release_inside()
        target = free_name(self.place)
        self.place.rename(target)
        return target

    def replace_by(self, folder: Path) -> Path | None:
        """Give `folder` this one's name; what had it is moved aside. Where to; None: it held nothing."""
        for each in self.parts:
            (folder / each.name).mkdir(exist_ok=True)
        aside = None
        if self.path.is_dir():
            self._lock.release_inside()
            (self.path / ".lock").unlink(missing_ok=True)
            aside = self.move_aside() if any(self.path.iterdir()) else None
        folder.rename(self.place)
        self._lock.hold_inside()
        files.sync_folder(self.place.parent)
        return aside

    def report_bad(self, bad: list[tuple[str, str]], data: DataSet, say: Callable[[str], None]) -> None:
        """List samples that could not be read, once each, and say so as they double. UserError: they are too many."""
        if not bad or not self.first:
            return
        if self._bad is None:
            self._bad = self._read_bad()
        before = len(self._bad)
        with files.naming(self.bad_samples), self.bad_samples.open("a", encoding="utf-8") as file:
            for sample, reason in bad:
                if sample not in self._bad:
                    self._bad.add(sample)
                    file.write(json.dumps({"sample": sample, "reason": reason}) + "\n")
        if len(self._bad).bit_length() > before.bit_length():
            count, last = len(self._bad), ": ".join(bad[-1])
            say(f"Unreadable samples so far: {count}, e.g. {last}; {self.bad_samples} lists them")
        total = len(data.train) + len(data.validation) + len(data.bad)
        if len(self._bad) > data.max_bad_fraction * total:
            raise UserError(
                f"{len(self._bad)} of {total} samples cannot be read, more than {_limit(data)}; "
                f"{self.bad_samples} lists them with the reasons. Repair them "
                "and go on with resume=extend, or raise the limit"
            )

    def _read_bad(self) -> set[str]:
        try:
            text = self.bad_samples.read_text(encoding="utf-8") if self.bad_samples.exists() else ""
            whole = [each for each in text.split("\n")[:-1] if each]
            found = {str(json.loads(line)["sample"]) for line in whole}
        except (ValueError, LookupError, TypeError) as error:
            raise files.DamagedError(f"{self.bad_samples} is damaged: a line in it is no sample ({error})") from error
        files.write_text(self.bad_samples, "".join(f"{line}\n" for line in whole))
        return found


def _limit(data: DataSet) -> str:
    """`max_bad_fraction` where it can be set: by a key, if the class takes it as an argument."""
    by_key = "max_bad_fraction" in inspect.signature(type(data)).parameters
    place = "data.max_bad_fraction={}" if by_key else f"the max_bad_fraction={{}} of {type(data).__name__}"
    return place.format(data.max_bad_fraction)


def run_path(values: dict[str, Any], swept: str = "") -> Path:
    """The run folder of a resolved configuration; `swept` is the name of a sweep's job folder."""
    return Path(values["output_root"]).expanduser().joinpath(values["name"], swept)


def _place(path: Path) -> Path:
    """Where a folder lies that may be a link, to where nothing is yet. UserError: to a disk that is not there."""
    if not path.is_symlink():
        return path
    place = Path(os.path.realpath(path))
    if not place.parent.is_dir():
        raise UserError(
            f"{path} is a link to {place}, and there is no folder {place.parent}: mount or make it, or delete the link"
        )
    return place


def free_name(path: Path) -> Path:
    """`<path>.old-<number>` that nothing has yet."""
    number = 1
    while (found := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    return found


def _add_time(record: dict[str, Any], start: dict[str, Any], seconds: float) -> None:
    record["wall_seconds"] = round(record["wall_seconds"] + seconds, 3)
    start["seconds"] = round(start["seconds"] + seconds, 3)
