"""The files of a run's folder: whole, of another format, not to be listed, moved aside."""

import errno
import os
from pathlib import Path

import pytest

from fluxflow_exp import files
from fluxflow_exp.errors import UserError
from fluxflow_exp.models.weights import find_parts
from fluxflow_exp.run import folder as run_folder
from fluxflow_exp.run.checkpoint import CheckpointStore
from fluxflow_exp.run.folder import RunFolder

CONFIG = {"model": {"name": "tiny"}, "stage": {"steps": {"vae": {"n_epochs": 2}}}, "seed": 0}


def test_a_folder_of_another_format_is_refused(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(CONFIG, {"name": "run"})
    record = folder.read_record()
    folder.write_record({**record, "format": 7})
    with pytest.raises(UserError, match="run format 7"):
        folder.read_record()


@pytest.mark.parametrize("text", ["{half", b"\xff\xfe\x00"])
def test_a_configuration_or_record_that_is_not_whole_is_named(tmp_path, text):
    folder = RunFolder(tmp_path / "run")
    folder.create(CONFIG, {"name": "run"})
    for path, read in ((folder.config, folder.frozen), (folder.record, folder.read_record)):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(UserError, match=path.name):
            read()
    folder.config.write_text("- a list\n")
    with pytest.raises(UserError, match="holds no configuration"):
        folder.frozen()
    folder.config.unlink()
    with pytest.raises(UserError, match="No such file"):
        folder.frozen()


def test_old_runs_are_numbered_never_overwritten(tmp_path):
    for number in (1, 2):
        folder = RunFolder(tmp_path / "run")
        folder.create({**CONFIG, "seed": number}, {"name": "run"})
        assert folder.move_aside().name == f"run.old-{number}"
    assert RunFolder(tmp_path / "run.old-1").frozen()["seed"] == 1


def test_links_lead_to_where_a_run_is_made_and_are_refused_where_that_is_gone(tmp_path):
    folder, disk = RunFolder(tmp_path / "run"), tmp_path / "disk"
    disk.mkdir()
    folder.path.symlink_to(disk / "far")
    (disk / "far").mkdir()
    folder.checkpoints.symlink_to(disk / "checkpoints")
    folder.create(CONFIG, {"name": "run"})
    folder.check_links()
    assert (disk / "checkpoints").is_dir()
    assert folder.path.is_symlink()
    (disk / "checkpoints").rmdir()
    with pytest.raises(UserError, match=f"checkpoints is a link to {disk}/checkpoints, which is not there"):
        folder.check_links()
    assert folder.move_aside() == disk / "far.old-1"
    folder.create(CONFIG, {"name": "run"})  # where the link leads
    assert (disk / "far" / "run.json").exists()


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    folder.create(CONFIG, {"name": "run"})
    folder.record.unlink()
    (folder.checkpoints / "a.pt").touch()
    (folder.weights / "vae.safetensors").touch()
    assert folder.lacks_record()
    assert files.matching(folder.path / "nowhere", "*") == []
    assert files.matching(folder.checkpoints, "[ab].p?") == [folder.checkpoints / "a.pt"]

    def fails(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "listdir", fails)
    for look in (folder.lacks_record, CheckpointStore(folder.checkpoints).paths, lambda: find_parts(folder.path)):
        with pytest.raises(OSError, match="Input/output error") as raised:
            look()
        assert raised.value.filename.startswith(str(folder.path))


def test_a_run_is_found_from_inside_its_folder(tmp_path, monkeypatch):
    RunFolder(tmp_path / "run").create(CONFIG, {"name": "run"})
    monkeypatch.chdir(tmp_path / "run")
    inside = RunFolder(Path("."))
    assert inside.frozen() == CONFIG
    inside.lock()
    monkeypatch.setattr(run_folder, "LOCK_SECONDS", 0.1)
    with pytest.raises(UserError, match="another process"):
        RunFolder(tmp_path / "run").lock()
    inside.unlock()
