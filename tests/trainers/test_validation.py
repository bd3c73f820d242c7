"""Pictures come with the checkpoints that they belong to, whatever happens between the two."""

import signal
from pathlib import Path

import pytest

from fluxflow_exp import pipeline
from fluxflow_exp.run.checkpoint import CheckpointStore
from fluxflow_exp.run.metric_log import read_rows
from fluxflow_exp.run.save_interval import SaveClock
from fluxflow_exp.trainers.autoencoder import AutoencoderTrainer
from tests.conftest import toy
from tests.helpers.children import KillDuring, finish
from tests.helpers.slowed import slowed


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


def test_the_time_of_an_update_is_without_what_is_done_beside_it_and_that_of_the_rest_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slowed(
        monkeypatch,
        [
            (AutoencoderTrainer, "update", 2.0),
            (AutoencoderTrainer, "evaluate", 6.0),
            (AutoencoderTrainer, "sample_pictures", 4.0),
            (CheckpointStore, "save", 3.0),
        ],
    )
    step = [f"stage.steps.vae.{key}" for key in ("n_epochs=2", "batch_size=8")]  # 8 updates
    pipeline.run(toy(tmp_path, *step, "evaluation.raw=false", stage="vae"))
    rows = read_rows(tmp_path / "vae" / "graph" / "training_metrics_vae.jsonl")
    found = {row["global_step"]: row["extras"] for row in rows if row["kind"] == "train"}
    assert {update: each["batch_time"] for update, each in found.items()} == {3: 2.0, 6: 2.0, 8: 2.0}
    assert {update: each["seconds"] for update, each in found.items()} == {3: 6.0, 6: 25.0, 8: 32.0}
    said = [
        line.rpartition("KL: ")[2].split(" | ")[1:] for line in capsys.readouterr().out.splitlines() if "Batch" in line
    ]
    # After the sixth update: two of 2 s, and a third of what 6 updates had beside them, 3 + 6 + 4 s.
    assert said == [["2.00s/batch", *eta] for eta in ([], ["ETA 00:00:10"], ["ETA 00:00:08"], ["ETA 00:00:00"])]


def always_due() -> None:
    SaveClock.due = lambda self, update: True  # type: ignore[method-assign]
