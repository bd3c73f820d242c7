"""Tables and plots of several runs as one run on W&B: what a report of theirs is made of."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fluxflow_exp.run.wandb import unreachable


@dataclass(frozen=True)
class Table:
    """Cells are numbers, text, None, or the Path of a picture."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Report:
    name: str
    job_type: str
    config: dict[str, Any]
    tables: dict[str, Table]
    images: dict[str, Path] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    group: str | None = None


def send(report: Report, folder: Path, *, project: str, entity: str | None = None, offline: bool = False) -> str:
    """Send a report; where it went. Offline, without a key or a network, it is written into `folder`."""
    import wandb

    mode = "offline" if offline else os.environ.get("WANDB_MODE") or "online"
    reason = unreachable() if mode == "online" else None
    run = wandb.init(
        mode="offline" if reason else mode,  # type: ignore[arg-type]
        project=project,
        entity=entity,
        group=report.group,
        job_type=report.job_type,
        name=report.name,
        dir=str(folder),
        config=report.config,
        settings=wandb.Settings(silent=True, console="off"),
    )

    def cell(value: Any) -> Any:
        return wandb.Image(str(value)) if isinstance(value, Path) else value

    tables = {
        name: wandb.Table(columns=list(each.columns), data=[[cell(value) for value in row] for row in each.rows])
        for name, each in report.tables.items()
    }
    run.log({**tables, **{name: wandb.Image(str(path)) for name, path in report.images.items()}})
    run.summary.update(report.summary)
    online = not run.settings._offline and run.url
    where = online or f"{folder / 'wandb'}, offline{f' ({reason})' if reason else ''}; wandb sync sends it"
    run.finish()
    wandb.teardown()  # the service writes on behind finish(): only its end leaves a whole file
    return str(where)
