"""One run on Weights & Biases for a run folder, whatever interrupts it.

The folder's metric rows are the truth. The n-th of them, over all steps, is step n of W&B's history, so that none can
stand there twice. A run that starts again online sends what the server lacks; offline, where nobody can be asked, it
writes its whole history once more and takes the place of what was written before.
"""

import netrc
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from fluxflow_exp import files
from fluxflow_exp.config.schema import Tracking
from fluxflow_exp.console import Console
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import Row, read_rows_from

CONNECT_SECONDS = 5.0
HOST = "https://api.wandb.ai"


class WandbRun:
    """Follows the metric rows of `folder`. A failure of W&B is said once and ends the following, never the run."""

    def __init__(self, folder: RunFolder, tracking: Tracking, console: Console) -> None:
        self.folder, self.tracking, self.console = folder, tracking, console
        self.config = folder.frozen()
        self.steps = list(self.config["stage"]["steps"])
        self.sent = 0  # rows
        self._step, self._offset = 0, 0  # how far the rows have been read
        self._run: Any = None
        self.known = 0  # rows that the server has already

    @property
    def opened(self) -> bool:
        return self._run is not None

    def start(self, *, fallback: bool = True) -> None:
        """Open the run: online if it may and can be, within a bounded time, else offline unless without `fallback`."""
        mode = self.tracking.mode
        if mode == "off":
            return
        reason = None if mode == "offline" else unreachable()
        if reason is None and mode != "offline":
            reason = self._open("online")
        if self._run is None and not fallback:
            self.console.say(f"W&B: {reason}")
            return
        if self._run is None:
            if reason and (mode == "online" or has_key()):
                self.console.say(f"W&B: {reason}; this run is recorded offline")
            failed = self._open("offline")
            if failed:
                self.console.say(f"W&B: {failed}; metrics go to the run folder alone")
                return
        offline = f"recorded offline; python -m fluxflow_exp.sync {self.folder.path} sends it later"
        where = offline if self._run.settings._offline else self._run.url
        self.console.say(f"W&B: {where}")

    def catch_up(self, step: str) -> None:
        """Send the rows that have been written since, up to the ones of `step`, which has been rewound."""
        if self._run is None:
            return
        try:
            for of, row in self._unsent(step):
                if self.sent >= self.known:
                    self._run.log(self._values(of, row), step=self.sent)
                self.sent += 1
        except Exception as error:  # a dashboard must not stop training, whatever is wrong with it
            self._give_up(error)

    def finish(self, *, code: int, metrics: dict[str, Any] | None = None) -> None:
        """Close the run; with the final `metrics` of a finished one its weights are referred to as an artifact."""
        if self._run is None:
            return
        try:
            if metrics is not None:
                self._run.summary.update(metrics)
                self._refer_to_weights()
            offline = self._run.settings._offline
            self._run.finish(exit_code=code)
            if offline:  # the service writes on behind finish(), and a rank of several ends without waiting for it
                import wandb

                wandb.teardown()
        except Exception as error:
            self._give_up(error)
        self._run = None

    def _open(self, mode: str) -> str | None:
        """Open the run in this mode; return why that is not possible, None if it has been."""
        import wandb  # takes half a second, and not every run wants it

        home = self.folder.path / "wandb"
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
            os.environ[name] = str(home.absolute())
        os.environ.setdefault("WANDB_SILENT", "true")
        record = self.folder.read_record()
        swept = self.config["name"] if self.folder.path.name != self.config["name"] else None
        stage, model = self.config["stage"]["name"], self.config["model"]["name"]
        try:
            home.mkdir(exist_ok=True)
            if mode == "offline":
                self._clear_offline()
            self._run = wandb.init(
                mode=mode,  # type: ignore[arg-type]
                id=wandb_id(self.folder),
                resume="allow",
                dir=str(self.folder.path),
                project=self.tracking.project,
                entity=self.tracking.entity,
                name=self.folder.path.name,
                group=_group(self.folder) or swept,
                job_type=stage,
                tags=[stage, model, *self.tracking.tags],
                notes=self.tracking.notes,
                config={**self.config, "commit": record["commit"], "changed_code": record["changed_code"]},
                allow_val_change=True,
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    init_timeout=self.tracking.init_seconds,
                    finish_timeout=self.tracking.finish_seconds,
                ),
            )
            for step in self.steps:
                self._run.define_metric(f"{step}/update", hidden=True)
                self._run.define_metric(f"{step}/*", step_metric=f"{step}/update")
        except Exception as error:  # of the network, of the key, of the server: all end in the other mode, said
            self._run = None
            wandb.teardown()  # what is left of this attempt would hold the run's id
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
        self.known = self._run.step if mode == "online" else 0
        return None

    def _clear_offline(self) -> None:
        """Take away what earlier processes wrote offline: it is written again, whole, by this one."""
        for old in (self.folder.path / "wandb").glob("offline-run-*"):
            shutil.rmtree(old)

    def _unsent(self, last: str) -> Iterator[tuple[str, Row]]:
        """Rows that were written since the call before, with their steps; steps after `last` are not looked at."""
        while True:
            step = self.steps[self._step]
            rows, self._offset = read_rows_from(self.folder.metrics(step), self._offset)
            yield from ((step, row) for row in rows)
            if step == last:
                return
            self._step, self._offset = self._step + 1, 0

    def _values(self, step: str, row: Row) -> dict[str, Any]:
        """A row under W&B's names."""
        import wandb

        of = f"{step}/raw" if row["kind"] == "held_out_raw" else step
        values = {f"{of}/{name}": value for name, value in row["metrics"].items() if value is not None}
        if row["kind"] == "held_out":  # beside, by a name that runs of different steps share
            values |= {f"held_out/{name}": value for name, value in row["metrics"].items() if value is not None}
        values |= {f"{step}/lr/{player}": rate for player, rate in row["learning_rates"].items()}
        values |= {f"{step}/{name}": value for name, value in row["extras"].items()}
        if row["kind"] == "health":
            values[f"{step}/warnings"] = len(row.get("warnings", {}))
        pictures = [
            wandb.Image(Image.open(path), caption=caption, file_type="jpg")
            for name, caption in row.get("pictures", {}).items()
            if (path := self.folder.samples / name).exists()
        ]
        if pictures:
            values[f"{step}/samples"] = pictures
        return {**values, f"{step}/update": row["global_step"], f"{step}/epoch": row["epoch"]}

    def _refer_to_weights(self) -> None:
        import wandb

        weights = wandb.Artifact(f"weights-{wandb_id(self.folder)}", type="model")
        for path in sorted(self.folder.weights.glob("*.safetensors")):
            weights.add_reference(path.absolute().as_uri())
        self._run.log_artifact(weights)

    def _give_up(self, error: Exception) -> None:
        self.console.say(
            f"W&B stopped ({type(error).__name__}: {error}); training goes on, and "
            f"python -m fluxflow_exp.sync {self.folder.path} sends what is missing"
        )
        self._run = None


def wandb_id(folder: RunFolder) -> str:
    """The run's id on W&B: made once, kept in the run's record."""
    record = folder.read_record()
    if not record.get("wandb_id"):
        record["wandb_id"] = secrets.token_hex(4)
        folder.write_record(record)
    return str(record["wandb_id"])


def _group(folder: RunFolder) -> str | None:
    """The group that W&B's own variable names, as for the runs of a study; kept for `fluxflow_exp.sync`."""
    record, named = folder.read_record(), os.environ.get("WANDB_RUN_GROUP")
    if named and record.get("wandb_group") != named:
        record["wandb_group"] = named
        folder.write_record(record)
    return record.get("wandb_group")


def has_key() -> bool:
    """Whether a key for W&B is configured on this machine; nothing is asked of anybody."""
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or HOST).hostname or ""
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        with suppress(OSError, netrc.NetrcParseError):
            if path and netrc.netrc(Path(path).expanduser()).authenticators(host):
                return True
    return False


def unreachable() -> str | None:
    """Say why W&B cannot be used online from here, found out within seconds; None if it can."""
    if not has_key():
        return "no key is configured (wandb login)"
    address = urlsplit(os.environ.get("WANDB_BASE_URL") or HOST)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return f"{address.hostname} cannot be reached ({error})"
    return None


def final_metrics(folder: RunFolder) -> dict[str, Any] | None:
    """Return the metrics of a finished run; None for an unfinished one."""
    return files.read_json(folder.summary)["metrics"] if folder.summary.exists() else None
