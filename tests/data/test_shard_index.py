"""Indices of shards: what tarfile finds, of every kind of header, and as much after they were written and read."""

import random
import sys
import tarfile
from pathlib import Path

import pytest
import webdataset

from fluxflow_exp.data import shard_index, tar
from fluxflow_exp.data.shard_index import OfDisk, loaded, of_headers
from fluxflow_exp.errors import UserError
from tests.helpers.shards import add, image, write_shards

LONG = "folder/" * 20 + "x"


def members(path: Path) -> dict[str, dict[str, object]]:
    found, _ = tar.index(path)
    return {
        k: {n: p if isinstance(p, str) else (p.offset, p.size) for n, p in each.items()} for k, each in found.items()
    }


def assert_found(path: Path, *, usual: bool) -> shard_index.Index:
    file = OfDisk(path)
    with file.file:
        index = of_headers(file, path.name, ("txt",))
        if usual:
            shard_index._usual(file, ("txt",))
        else:
            with pytest.raises((shard_index._UnusualError, ValueError)):
                shard_index._usual(file, ("txt",))
    assert {
        k: {n: p if isinstance(p, str) else p[:2] for n, p in each.items()} for k, each in index.samples.items()
    } == members(path)
    assert loaded(index.dumped().encode()) == index
    return index


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_plain_archives_are_read_quickly_and_as_tarfile_does(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=kind) as archive:
        folder = tarfile.TarInfo("b")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for i in range(5):
            add(archive, f"b/{i}.PNG", image(i))
            add(archive, f"b/{i}.txt", b"\xff half")
            add(archive, f"b/{i}.txt", b"twice")
    index = assert_found(path, usual=True)
    assert index.samples["b/0"]["txt"] == tar.TWICE


def test_webdataset_writes_times_of_its_own(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar"), mtime=1.5) as writer:
        for i in range(3):
            writer.write({"__key__": str(i), "png": image(i), "txt": "a caption"})
    assert b" mtime=1.5" in (tmp_path / "a.tar").read_bytes()
    index = assert_found(tmp_path / "a.tar", usual=True)
    assert [each["txt"].read() for each in index.samples.values()] == [b"a caption"] * 3  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_found(tmp_path: Path, kind: int) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=kind) as archive:
        add(archive, f"{LONG}.png", image(0))
        add(archive, f"{LONG}.txt", b"a caption")
    index = assert_found(tmp_path / "a.tar", usual=kind == tarfile.USTAR_FORMAT)
    assert list(index.samples) == [LONG]
    assert index.samples[LONG]["txt"].read() == b"a caption"  # type: ignore[union-attr]


def test_damage_ends_an_index_where_tarfile_says(tmp_path: Path) -> None:
    write_shards(tmp_path)
    whole = (tmp_path / "train-000.tar").read_bytes()
    rng = random.Random(0)
    cut = tmp_path / "cut.tar"
    for _ in range(60):
        data = bytearray(whole[: rng.randrange(1, len(whole))])
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        cut.write_bytes(data)
        file = OfDisk(cut)
        with file.file:
            index = of_headers(file, "cut.tar", ("txt",))
        found, bad = tar.index(cut)
        assert list(index.samples) == list(found)
        assert index.damage == (bad[0][1] if bad else None)


def test_an_index_lies_beside_its_shard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(tmp_path)
    shards = sorted(map(str, tmp_path.glob("*.tar")))
    monkeypatch.setattr(sys, "argv", ["shard_index", *shards])
    assert not shard_index.cli()
    assert "60 samples in 7 shards have an index beside them" in capsys.readouterr().out
    index = loaded((tmp_path / "train-001.tar.index.json").read_bytes())
    assert index.sha256 is not None
    assert index.has_texts("txt")
    assert not index.has_texts("png")
    (tmp_path / "cut.tar").write_bytes(Path(shards[0]).read_bytes()[:700])
    with pytest.raises(UserError, match=r"cut\.tar: the shard is damaged after 1 sample"):
        shard_index.write(tmp_path / "cut.tar")


def test_what_is_no_index_is_refused() -> None:
    for text in (b"", b"[]", b"{}", b'{"format": 2}', b'{"format": 1, "size": 1, "samples": 3}'):
        with pytest.raises(ValueError, match=r"index|Expecting"):
            loaded(text)
