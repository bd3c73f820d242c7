"""Of a run and its mirror the newer one wins, whole, and nothing is lost on either side.

Covers run/generation as well.
"""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp import files, verify
from fluxflow_exp.console import Console
from fluxflow_exp.errors import UserError
from fluxflow_exp.preflight import check
from fluxflow_exp.run import digest_list, generation, mirror, tally
from fluxflow_exp.run.folder import Mirror, RunFolder, run_path
from fluxflow_exp.run.identity import identity
from fluxflow_exp.run.metric_log import MetricLog
from tests.conftest import toy


def asked(outputs: Path, volume: Path, *, seed: int = 0, name: str = "run") -> dict[str, Any]:
    return {
        "name": name,
        "output_root": str(outputs),
        "resume": "auto",
        "seed": seed,
        "checkpoint": {"mirror": str(volume)},
        "stage": {"steps": {"vae": {"n_epochs": 2}}},
        **{key: {} for key in ("model", "data", "optimizer", "scheduler")},
    }


def opened(values: dict[str, Any], swept: str = "") -> RunFolder:
    return RunFolder(run_path(values, swept), mirror=Mirror.of(values, swept))


def start(values: dict[str, Any], swept: str = "") -> tuple[RunFolder, list[str]]:
    """What a command does before it trains; the run's folder, and what was said of the mirror."""
    folder = opened(values, swept)
    said = mirror.bring_back(folder, values)
    if not folder.exists():
        folder.create(values, {"name": values["name"], "seed": values["seed"], "commit": None})
    record = folder.read_record()
    record["starts"].append({"id": os.urandom(4).hex()})
    folder.write_record(record)
    return folder, said


def train(folder: RunFolder, *updates: int) -> None:
    """Log and save as a step does."""
    for update in updates:
        rows = MetricLog(folder.metrics("vae"))
        rows.write("train", update=update, epoch=1, batch=1, metrics={"vae": 0.5})
        (folder.samples / f"vae_001_001_{update:05d}_grid.webp").write_bytes(b"drawn %d" % update)
        checkpoint(folder, update)
        tally.keep(folder, "vae", update)
        assert folder.mirror
        mirror.save(folder.mirror, folder)


def checkpoint(folder: RunFolder, update: int) -> None:
    for old in folder.checkpoints.glob("*.pt"):
        old.unlink()
    state = os.urandom(16)
    name = f"01-vae-{update:08d}-{hashlib.sha256(state).hexdigest()[:16]}.pt"
    (folder.checkpoints / name).write_bytes(state)


def content(folder: RunFolder) -> dict[str, bytes]:
    return {p.relative_to(folder.path).as_posix(): p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}


def home(volume: Path) -> Path:
    (found,) = [path for path in volume.iterdir() if ".old-" not in path.name]
    return found


def test_a_lost_folder_is_brought_back_as_it_was_saved(tmp_path: Path) -> None:
    values = asked(tmp_path / "outputs", tmp_path / "volume")
    folder, said = start(values)
    train(folder, 10, 20)
    before = content(folder)
    (folder.path / "submitted.json").write_text('{"launcher": "local", "job": 1}')  # a process of that machine
    assert folder.mirror
    mirror.save(folder.mirror, folder)
    assert said == []
    shutil.rmtree(tmp_path / "outputs")
    there, said = opened(values), mirror.bring_back(opened(values), values)
    assert content(there) == before
    assert said == [f"Brought {there.path} back from its mirror (vae, update 20)"]


def test_a_save_copies_what_has_changed_and_leaves_one_generation(tmp_path: Path) -> None:
    folder, _ = start(asked(tmp_path / "outputs", tmp_path / "volume"))
    train(folder, 10)
    (first,) = (home(tmp_path / "volume") / "samples").iterdir()
    written = first.stat().st_ino
    train(folder, 20, 30)
    there = home(tmp_path / "volume")
    assert first.stat().st_ino == written
    assert [path.name for path in there.glob("generation-*")] == ["generation-00000003.json"]
    assert len(list((there / "checkpoints").iterdir())) == 1
    kept = generation.newest(there)
    assert kept
    assert {p for p in there.rglob("*") if p.is_file()} == {*generation.places(there, kept.files), kept.listing}
    assert folder.mirror
    mirror.save(folder.mirror, folder)  # nothing has changed
    assert generation.newest(there) == kept


def test_damaged_checkpoints_do_not_replace_whole_ones(tmp_path: Path) -> None:
    values = asked(tmp_path / "outputs", tmp_path / "volume")
    folder, _ = start(values)
    train(folder, 10, 20)
    (saved,) = folder.checkpoints.glob("*.pt")
    whole = saved.read_bytes()
    saved.write_bytes(whole[:5])
    assert folder.mirror
    mirror.save(folder.mirror, folder)  # a process that does not know
    (copied,) = (home(tmp_path / "volume") / "checkpoints").iterdir()
    assert copied.read_bytes() == whole
    folder, said = start(values)
    assert "(vae, update 20), which is ahead (here: its beginning); the folder as it was is kept as" in said[0]
    assert (folder.checkpoints / saved.name).read_bytes() == whole
    assert (tmp_path / "outputs" / "run.old-1" / "checkpoints" / saved.name).read_bytes() == whole[:5]
    saved.unlink()
    with pytest.raises(UserError, match=r"ahead \(vae, update 20\) of .* \(its beginning\)"):
        mirror.save(folder.mirror, folder)


def test_the_newer_of_two_machines_wins_and_the_other_is_kept(tmp_path: Path) -> None:
    here, there = (asked(tmp_path / machine, tmp_path / "volume") for machine in "ab")
    first, _ = start(here)
    train(first, 10)
    second, said = start(there)
    assert "(vae, update 10)" in said[0]
    train(second, 20, 30)
    with pytest.raises(UserError, match=r"another process has gone on .* \(vae, update 30\)"):
        train(first, 20)
    again, said = start(here)
    assert "(vae, update 30), which is ahead (here: vae, update 20)" in said[0]
    assert content(RunFolder(tmp_path / "a" / "run.old-1"))
    train(again, 40)
    with pytest.raises(UserError, match="another process"):
        train(second, 40, 50)
    again, said = start(there)  # each has gone on alone, and this one farther or as far
    (aside,) = [path for path in (tmp_path / "volume").iterdir() if ".old-" in path.name]
    assert said == [f"The copy on the mirror has gone another way (vae, update 40); it is kept in {aside}"]
    train(again, 50)
    assert generation.newest(aside).progress.update == 40  # type: ignore[union-attr]
    assert generation.newest(home(tmp_path / "volume")).progress.update == 50  # type: ignore[union-attr]


def test_a_mirror_is_known_by_the_run_and_not_by_its_name(tmp_path: Path) -> None:
    first, _ = start(asked(tmp_path / "one", tmp_path / "volume"))
    train(first, 10)
    other = asked(tmp_path / "two", tmp_path / "volume", seed=1)
    with pytest.raises(UserError, match=r"(?s)another run of this name.*seed: 0 there, 1 asked.*resume=fresh"):
        mirror.bring_back(opened(other), other)
    opened(other).create(other, {"name": "run"})  # resume=fresh does not ask the mirror
    second, said = start(other)
    train(second, 5)
    assert said == []
    for values, update in ((asked(tmp_path / "one", tmp_path / "volume"), 10), (other, 5)):
        shutil.rmtree(values["output_root"])
        _, said = start(values)
        assert f"(vae, update {update})" in said[0]


def test_jobs_of_two_sweeps_may_have_one_name(tmp_path: Path) -> None:
    first, _ = start(asked(tmp_path, tmp_path / "volume", name="one"), "seed=0-abc")
    train(first, 10)
    second, said = start(asked(tmp_path, tmp_path / "volume", name="two"), "seed=0-abc")
    assert said == []
    train(second, 20)
    shutil.rmtree(first.path)
    _, said = start(asked(tmp_path, tmp_path / "volume", name="one"), "seed=0-abc")
    assert "(vae, update 10)" in said[0]


@pytest.mark.parametrize("known", [True, False])
def test_a_copy_of_an_earlier_version_is_read_and_left_alone(tmp_path: Path, known: bool) -> None:
    values = asked(tmp_path / "outputs", tmp_path / "volume")
    folder, _ = start(values)
    train(folder, 10)
    record = folder.read_record()
    del record["id"], record["logged"]
    record["starts"] = [{"time": "2026-01-01T00:00:00+00:00", "machine": "CPU"}]
    folder.write_record(record)
    shutil.rmtree(tmp_path / "volume")
    shutil.copytree(folder.path, tmp_path / "volume" / "run")
    (folder.checkpoints / f"01-vae-00000020-{'0' * 16}.pt").write_bytes(b"torn while it was copied")
    shutil.copytree(folder.path, tmp_path / "volume" / "run", dirs_exist_ok=True)
    if known:
        for path in folder.checkpoints.glob("*.pt"):
            path.write_bytes(b"")
    else:
        shutil.rmtree(folder.path)
    again, said = start(values)
    assert "01-vae-00000020" in said[0]
    assert "(vae, update 10)" in said[1]
    before = content(RunFolder(tmp_path / "volume" / "run"))
    train(again, 20)
    assert content(RunFolder(tmp_path / "volume" / "run")) == before
    shutil.rmtree(folder.path)
    assert "(vae, update 20)" in start(values)[1][0]


def test_what_is_damaged_on_the_mirror_is_left_out_or_refused(tmp_path: Path) -> None:
    values = asked(tmp_path / "outputs", tmp_path / "volume")
    folder, _ = start(values)
    train(folder, 10)
    shutil.rmtree(tmp_path / "outputs")
    (picture,) = (home(tmp_path / "volume") / "samples").iterdir()
    picture.write_bytes(b"drawn XX")
    again, said = start(values)
    assert "vae_001_001_00010_grid.webp" in said[0]
    assert not list(again.samples.iterdir())
    assert any("lacks 1 picture" in line for line in verify.problems(again)[0])
    shutil.rmtree(tmp_path / "outputs")
    (rows,) = (home(tmp_path / "volume") / "graph").iterdir()
    rows.write_bytes(rows.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"damaged: graph/training_metrics_vae\.jsonl"):
        start(values)
    assert not (tmp_path / "outputs" / "run").exists()


def test_a_damaged_copy_that_is_ahead_is_kept_and_the_folder_goes_on(tmp_path: Path) -> None:
    values = asked(tmp_path / "outputs", tmp_path / "volume")
    folder, _ = start(values)
    train(folder, 10)
    shutil.copytree(folder.path, tmp_path / "before")
    train(folder, 20)
    shutil.rmtree(folder.path)
    (tmp_path / "before").rename(folder.path)
    (copied,) = (home(tmp_path / "volume") / "graph").iterdir()
    copied.write_bytes(b"")
    again, said = start(values)
    assert "Note: 1 damaged file of " in said[0]
    assert said[0].endswith(": graph/training_metrics_vae.jsonl")
    assert "the run goes on from vae, update 10" in said[1]
    train(again, 20)
    assert len(list((tmp_path / "volume").iterdir())) == 2


@pytest.mark.parametrize("name", ["../../stolen.txt", "/tmp/stolen.txt", "samples/../../x"])
def test_a_list_that_leads_elsewhere_is_no_generation(tmp_path: Path, name: str) -> None:
    folder, _ = start(asked(tmp_path / "outputs", tmp_path / "volume"))
    train(folder, 10)
    copy = generation.newest(home(tmp_path / "volume"))
    assert copy
    listed = json.loads(copy.listing.read_text())
    listed["files"][name] = listed["files"]["run.json"]
    copy.listing.write_text(json.dumps(listed))
    assert generation.newest(copy.home) is None
    folder.write_record({**folder.read_record(), "id": "../../up"})
    assert len(identity(folder.read_record())) == 8


def test_rows_that_are_gone_come_from_the_mirror_and_verify_misses_them(tmp_path: Path) -> None:
    values = asked(tmp_path / "outputs", tmp_path / "volume")
    folder, _ = start(values)
    train(folder, 10, 20)
    (folder.samples / "vae_001_001_00010_grid.webp").unlink()
    shutil.rmtree(folder.graph)
    assert [line for line in verify.problems(folder)[0] if "logged" in line or "lacks" in line or "rows" in line] == [
        "graph/training_metrics_vae.jsonl has 0 of the 2 rows up to update 20",
        "samples/ lacks 1 picture of step vae (of 001_00010)",
    ]
    assert folder.mirror
    with pytest.raises(UserError, match="it has what is missing here"):
        mirror.save(folder.mirror, folder)
    again, said = start(values)
    assert "0 of the 2 rows up to update 20 here" in said[0]
    assert verify.problems(again)[0] == []


def test_a_mirror_that_cannot_be_written_is_said_and_does_not_stop_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = start(asked(tmp_path / "outputs", tmp_path / "volume"))
    train(folder, 10)
    there = home(tmp_path / "volume")
    there.rename(tmp_path / "away")
    there.write_text("no folder")
    mirror.follow(folder, Console())
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "Note: a file could not be read or written" in said
    assert "training goes on" in said
    with pytest.raises(UserError, match="on the mirror is behind it"):
        mirror.finish(folder)
    there.unlink()
    mirror.finish(folder)
    assert generation.newest(there)


@pytest.mark.parametrize("switched", [False, True])
def test_a_save_that_fails_leaves_a_whole_generation_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switched: bool
) -> None:
    values = asked(tmp_path / "outputs", tmp_path / "volume")
    folder, _ = start(values)
    train(folder, 10)
    there = home(tmp_path / "volume")
    before = content(RunFolder(there))
    write = files.write_json

    def full(path: Path, value: Any) -> None:
        if there not in path.parents or switched:
            write(path, value)
        if there in path.parents:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(files, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        train(folder, 20)
    assert (content(RunFolder(there)) == before) is not switched
    shutil.rmtree(tmp_path / "outputs")
    assert f"(vae, update {20 if switched else 10})" in mirror.bring_back(opened(values), values)[0]


def test_a_mirror_in_the_run_folder_is_refused(tmp_path: Path) -> None:
    values = toy(tmp_path, stage="vae")
    values["checkpoint"]["mirror"] = f"{tmp_path}/vae/copy"
    assert ["lies in the run folder" in line for line in check.problems(values)] == [True]


def test_a_step_that_goes_back_forgets_what_it_had_logged_later(tmp_path: Path) -> None:
    folder, _ = start(asked(tmp_path / "outputs", tmp_path / "volume"))
    train(folder, 10, 20, 30)
    tally.rewind(folder, "vae", 10)
    MetricLog(folder.metrics("vae")).rewind(10)
    assert json.loads(folder.record.read_text())["logged"]["vae"]["rows"] == 1
    assert tally.missing_rows(folder, folder.read_record()) == []


def test_rows_of_a_mirror_that_is_behind_take_no_update_back(tmp_path: Path) -> None:
    values = asked(tmp_path / "outputs", tmp_path / "volume")
    folder, _ = start(values)
    train(folder, 10)
    copy = home(tmp_path / "volume")
    assert folder.mirror
    folder.metrics("vae").unlink()
    checkpoint(folder, 20)
    said = mirror.bring_back(folder, values)
    assert said == [
        f"{copy} has rows that are missing here, up to vae, update 10, and is behind (here: vae, update 20)"
    ]
    assert [int(path.name.split("-")[2]) for path in folder.checkpoints.iterdir()] == [20]
    with pytest.raises(UserError, match="rows that this run had logged are lost"):
        tally.check_rows(folder, folder.read_record(), resume="auto")
    (line,) = mirror.bring_back(folder, {**values, "resume": "incomplete"})
    assert line.startswith(f"{copy}.old-1 has rows")
    assert list((tmp_path / "volume").glob("*.old-1/graph/*.jsonl"))


def test_a_folder_copied_by_hand_leaves_the_mirror_of_the_first_alone(tmp_path: Path) -> None:
    first, second = (asked(tmp_path / "outputs", tmp_path / "volume", name=name) for name in "ab")
    folder, _ = start(first)
    train(folder, 10)
    shutil.copytree(folder.path, tmp_path / "outputs" / "b")
    train(folder, 20)
    other, said = start(second)
    assert "(vae, update 20), where it is a, which is ahead" in said[0]
    train(other, 30)
    folder, said = start(first)
    assert said == []
    train(folder, 25)
    other, said = start(second)
    assert said == []
    assert [path.name[0] for path in sorted((tmp_path / "volume").iterdir())] == ["a", "b"]
    for values, update in ((first, 25), (second, 30)):
        shutil.rmtree(opened(values).path)
        assert f"(vae, update {update})" in start(values)[1][0]


@pytest.mark.parametrize("part", ["checkpoints", "weights", "graph", "samples"])
def test_a_folder_on_another_disk_is_copied(tmp_path: Path, part: str) -> None:
    values = asked(tmp_path / "outputs", tmp_path / "volume")
    folder, _ = start(values)
    (folder.path / part).rename(tmp_path / "disk")
    (folder.path / part).symlink_to(tmp_path / "disk")
    (folder.weights / "vae.safetensors").write_bytes(b"weights")
    train(folder, 10)
    before = {path.relative_to(tmp_path / "disk"): path.read_bytes() for path in (tmp_path / "disk").iterdir()}
    shutil.rmtree(tmp_path / "outputs")
    again, _ = start(values)
    there = again.path / part
    assert {path.relative_to(there): path.read_bytes() for path in there.iterdir()} == before != {}


@pytest.mark.parametrize("left", ["nothing", "an empty folder", "a damaged run"])
def test_a_run_folder_that_is_a_link_is_brought_back_to_where_it_leads(tmp_path: Path, left: str) -> None:
    values, disk = asked(tmp_path / "outputs", tmp_path / "volume"), tmp_path / "disk" / "far"
    link = run_path(values)
    link.parent.mkdir()
    disk.parent.mkdir()
    link.symlink_to(disk)
    folder, _ = start(values)
    train(folder, 10)
    before = content(folder)
    if left == "a damaged run":
        folder.record.write_text("{half")
    else:
        shutil.rmtree(disk)
    if left == "an empty folder":
        disk.mkdir()
    there, said = opened(values), mirror.bring_back(opened(values), values)
    assert content(there) == before
    assert link.readlink() == disk
    assert said[0].startswith(f"Brought {link} back from its mirror (vae, update 10)")
    assert (tmp_path / "disk" / "far.old-1").exists() == (left == "a damaged run")
    shutil.rmtree(disk.parent)
    with pytest.raises(UserError, match=f"{link} is a link to {disk}, and there is no folder {disk.parent}: mount or"):
        mirror.bring_back(opened(values), values)


def test_damaged_weights_take_the_place_of_whole_ones_nowhere(tmp_path: Path) -> None:
    folder, _ = start(asked(tmp_path / "outputs", tmp_path / "volume"))
    published = folder.weights / "vae.safetensors"
    published.write_bytes(b"whole")
    verify.write_digests(folder, Console())
    train(folder, 10)
    published.write_bytes(b"wrong")
    verify.write_digests(folder, Console())
    assert "weights/vae.safetensors has changed" in verify.problems(folder)[0]
    train(folder, 20)
    (copied,) = (home(tmp_path / "volume") / "weights").iterdir()
    assert copied.read_bytes() == b"whole"
    digest_list.forget(folder, published)  # a step that is trained longer
    published.write_bytes(b"newer")
    verify.write_digests(folder, Console())
    assert "weights/vae.safetensors has changed" not in verify.problems(folder)[0]
    train(folder, 30)
    (copied,) = (home(tmp_path / "volume") / "weights").iterdir()
    assert copied.read_bytes() == b"newer"
