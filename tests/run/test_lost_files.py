"""What is deleted or damaged in a run folder, while a run goes on or between two starts, is told of.

Covers run/tally as well.
"""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxflow_exp import files, pipeline, verify
from fluxflow_exp.errors import UserError
from fluxflow_exp.run.diff import differences
from fluxflow_exp.run.metric_log import MetricLog, read_rows
from fluxflow_exp.trainers.base import Trainer
from tests.conftest import toy
from tests.helpers.children import KillDuring, finish

SHORT = ("stage.steps.vae.max_updates=4", "checkpoint.every_updates=1", "samples.count=1", "log_every=1")
ROWS = "graph/training_metrics_vae.jsonl"


def values(root: Path, *words: str) -> dict[str, Any]:
    return toy(root, *SHORT, "evaluation.images=2", "health.images=null", *words, stage="vae")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run `whole`, and one that was killed in its third update."""
    root = tmp_path_factory.mktemp("made")
    assert finish(values(root / "whole"), root / "log") == 0, (root / "log").read_text()
    kill = KillDuring("fluxflow_exp.trainers.base:Trainer", "update", 3)
    assert finish(values(root / "killed"), root / "log", kill) == -9
    return root


@pytest.fixture
def killed(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "killed", tmp_path, dirs_exist_ok=True)
    return tmp_path / "vae"


def _without_its_first_rows(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[2:]))


def _torn(path: Path) -> None:
    path.write_text('{"half\n' + path.read_text())


@pytest.mark.parametrize("harm", [_without_its_first_rows, _torn, Path.unlink])
def test_rows_that_are_lost_are_told_of(killed: Path, made: Path, harm: Any, capsys: pytest.CaptureFixture) -> None:
    whole = read_rows(made / "whole" / "vae" / ROWS)
    harm(killed / ROWS)
    with pytest.raises(UserError, match=r"(?s)rows that this run had logged are lost.*_vae.jsonl.*resume=incomplete"):
        pipeline.run(values(killed.parent))
    pipeline.run(values(killed.parent, "resume=incomplete"))
    assert "Going on without metric rows that are lost" in capsys.readouterr().out
    left = [row["metrics"] for row in read_rows(killed / ROWS)]
    assert len(left) < len(whole) or harm is _torn
    assert left[-1] == whole[-1]["metrics"]
    assert verify.main([str(killed)]) == 1
    assert "went on without: " in capsys.readouterr().out


def test_graph_deleted_while_it_goes_on_loses_no_row(tmp_path: Path, made: Path) -> None:
    assert finish(values(tmp_path), tmp_path / "log", _delete_graph) == 0, (tmp_path / "log").read_text()
    assert f"{tmp_path / 'vae' / ROWS} was deleted while this run goes on" in (tmp_path / "log").read_text()
    assert differences(made / "whole" / "vae", tmp_path / "vae")[0] == []


def _delete_graph() -> None:
    update = Trainer.update

    def after_two(self: Trainer, batch: Any) -> None:
        if self.update_index == 2:
            shutil.rmtree(self.rows.path.parent)
        update(self, batch)

    Trainer.update = after_two  # type: ignore[method-assign]


def test_rows_follow_a_file_that_was_put_in_the_place_of_theirs(tmp_path: Path) -> None:
    said: list[str] = []
    log = MetricLog(tmp_path / "rows.jsonl", say=said.append)
    log.write("train", update=1, epoch=1, batch=1, metrics={"l1": 1.0})
    shutil.copy(log.path, tmp_path / "other")
    os.replace(tmp_path / "other", log.path)
    log.write("train", update=2, epoch=1, batch=2, metrics={"l1": 1.0})
    assert [row["global_step"] for row in read_rows(log.path)] == [1, 2]
    assert said == []


def test_a_deleted_record_is_said_and_fresh_moves_the_rest_aside(killed: Path) -> None:
    (killed / "run.json").unlink()
    with pytest.raises(UserError, match=r"run.json is missing; the run.s configuration.*resume=fresh"):
        pipeline.run(values(killed.parent))
    pipeline.run(values(killed.parent, "resume=fresh"))
    assert list(killed.with_name("vae.old-1").glob("checkpoints/*.pt"))
    assert (killed / "summary.json").exists()


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"format": 1, "state": os.getcwd}))


@pytest.mark.parametrize(
    "write",
    [
        _pickle,
        lambda path: torch.save({}, path),
        lambda path: torch.save([1], path),
        lambda path: torch.save({"format": 9}, path),
        lambda path: torch.save({"format": 1, "readers": None, "update": 2}, path),
        lambda path: path.write_bytes(b""),
    ],
    ids=["pickle", "empty", "list", "another format", "no state", "no byte"],
)
def test_a_checkpoint_of_something_else_is_one_clear_error(killed: Path, write: Any) -> None:
    write(killed / "made")
    name = f"01-vae-00000003-{files.digest(killed / 'made')[:16]}.pt"
    (killed / "made").rename(killed / "checkpoints" / name)
    with pytest.raises(UserError, match=rf"{name} is no checkpoint that can be continued from.*Move it away"):
        pipeline.run(values(killed.parent))


@pytest.mark.parametrize("name", ["vae.safetensors", "vae.raw.safetensors"])
def test_weights_of_a_finished_step_that_are_gone_are_missed(made: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "vae"
    shutil.copytree(made / "whole" / "vae", run)
    (run / "summary.json").unlink()
    (run / "weights" / name).write_bytes(b"half")
    with pytest.raises(UserError, match=rf"(?s)weights of finished steps.*{name} is not a whole safetensors file"):
        pipeline.run(values(tmp_path))


@pytest.mark.parametrize("name", ["vae.safetensors", "vae.raw.safetensors"])
def test_a_changed_byte_in_weights_of_a_finished_step_is_refused(made: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "vae"
    shutil.copytree(made / "whole" / "vae", run)
    (run / "summary.json").unlink()
    path = run / "weights" / name
    whole, stat = path.read_bytes(), path.stat()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(UserError, match=rf"(?s)weights of finished steps.*{name} has changed.*resume=fresh"):
        pipeline.run(values(tmp_path))
    path.write_bytes(whole)
    pipeline.run(values(tmp_path))
    assert verify.main([str(run)]) == 0


def test_what_follows_the_summary_is_made_up_for(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "vae"
    shutil.copytree(made / "whole" / "vae", run)
    (run / "report.html").unlink()
    listed = json.loads((run / "digests.json").read_text())
    del listed["summary.json"]
    files.write_json(run / "digests.json", listed)
    pipeline.run(values(tmp_path))
    assert "summary.json" in json.loads((run / "digests.json").read_text())
    assert (run / "report.html").exists()
