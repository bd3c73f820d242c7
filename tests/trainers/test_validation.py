"""Pictures come with the checkpoints that they belong to, whatever happens between the two."""

import signal
from pathlib import Path

import pytest

from fluxflow_exp.run.metric_log import read_rows
from fluxflow_exp.run.save_interval import SaveClock
from tests.conftest import toy
from tests.helpers.children import KillDuring, finish


@pytest.mark.parametrize(("by", "moment"), [("updates", "after"), ("clock", "before")])
def test_pictures_of_checkpoints_survive_a_kill(tmp_path: Path, by: str, moment: str) -> None:
    """Every second checkpoint has some; killed around the first pictures, the run draws them when it continues."""
    chosen = ["samples.samples_per_checkpoint=2", "samples.every_epochs=null", "evaluation.every_epochs=null"]
    chosen += [f"stage.steps.vae.{key}" for key in ("n_epochs=2", "batch_size=8")]
    chosen += ["checkpoint.every_updates=1"] if by == "updates" else ["checkpoint.every_updates=null"]
    values, log = toy(tmp_path, *chosen, stage="vae"), tmp_path / "log"
    faults = [] if by == "updates" else [always_due]
    kill = KillDuring("fluxflow_exp.trainers.validation:Validated", "draw", 1, moment)
    assert finish(values, log, *faults, kill) == -signal.SIGKILL
    assert finish(values, log, *faults) == 0, log.read_text()
    drawn = [f"vae_001_001_0000{n}" if n < 5 else f"vae_001_002_0000{n - 4}" for n in (2, 4, 6, 8)]
    run = tmp_path / "vae"
    assert sorted(p.name for p in (run / "samples").glob("*_grid.webp")) == [f"{name}_grid.webp" for name in drawn]
    rows = read_rows(run / "graph" / "training_metrics_vae.jsonl")
    assert [row["global_step"] for row in rows if row["kind"] == "samples"] == [2, 4, 6, 8]


def always_due() -> None:
    SaveClock.due = lambda self, update: True  # type: ignore[method-assign]
