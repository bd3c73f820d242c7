"""Saving, retention, and loading only what verifies."""

import os

import pytest
import torch

from fluxflow_exp.errors import UserError
from fluxflow_exp.run import checkpoint
from fluxflow_exp.run.checkpoint import CheckpointStore


def state(value):
    return {"update": value, "weights": torch.full((4,), float(value))}


def test_the_newest_state_comes_back(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for update in (10, 20, 30):
        store.save(state(update), index=1, step="vae", update=update)
    assert store.load(store.newest("vae"))["update"] == 30
    assert len(store.paths()) == 2
    assert store.newest("flow") is None


def test_tensors_that_stay_in_the_file_are_the_same_and_outlive_it(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    path = store.save(state(10), index=1, step="flow", update=10)
    mapped = store.load(path, mapped=True)
    store.save(state(20), index=1, step="flow", update=20)
    assert not path.exists()
    assert torch.equal(mapped["weights"], state(10)["weights"])
    torn = path.with_name("torn.pt")
    torn.write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"torn\.pt"):
        store.load(torn, mapped=True)


def test_a_torn_file_is_skipped_with_a_warning(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    store.save(state(10), index=1, step="vae", update=10)
    newest = store.save(state(20), index=1, step="vae", update=20)
    newest.write_bytes(newest.read_bytes()[:-20])
    with pytest.warns(UserWarning, match="does not match its digest"):
        assert store.load(store.newest("vae"))["update"] == 10


def test_a_failed_write_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=1)
    store.save(state(10), index=1, step="vae", update=10)

    def full_disk(value, file):
        file.write(b"half a checkpo")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        store.save(state(20), index=1, step="vae", update=20)
    assert store.load(store.newest("vae"))["update"] == 10
    assert [p.name for p in tmp_path.iterdir()] == [store.paths()[0].name]


def test_each_steps_final_is_kept(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    store.save(state(5), index=1, step="vae", update=5, final=True)
    for update in (1, 2, 3):
        store.save(state(update), index=2, step="flow", update=update)
    assert [p.name[:15] for p in store.paths()] == ["01-vae-00000005", "02-flow-0000000"]
    assert store.load(store.newest("vae"))["update"] == 5


def test_another_format_is_refused_by_name(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path)
    monkeypatch.setattr("fluxflow_exp.run.checkpoint.FORMAT", 99)
    store.save(state(5), index=1, step="vae", update=5)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format 99"):
        store.load(store.newest("vae"))


def test_a_file_is_verified_once_until_it_changes(tmp_path, monkeypatch):
    store, read = CheckpointStore(tmp_path), []
    path = store.save(state(10), index=1, step="vae", update=10)
    monkeypatch.setattr(checkpoint, "is_intact", lambda path: not read.append(path))
    assert [store.newest("vae"), store.reached("vae"), store.reached("flow")] == [path, 10, None]
    assert read == [path]
    os.utime(path, (1, 1))
    store.newest("vae")
    assert read == [path, path]
