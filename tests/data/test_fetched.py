"""Shards of object storage: read by index from a bounded cache, the same for any readers, caches and interruptions."""

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.data import object_storage
from fluxflow_exp.data.cache import LatentCache
from fluxflow_exp.data.fetched import FetchedImages
from fluxflow_exp.data.loader import Batch, epoch_batches, updates_per_epoch
from fluxflow_exp.data.mixture import Mixture
from fluxflow_exp.data.sequential import read_lists
from fluxflow_exp.data.shard_index import write
from fluxflow_exp.data.webdataset import WebDataset
from fluxflow_exp.errors import UserError
from fluxflow_exp.run.identity import identity_differences
from tests.conftest import TOY_WITHOUT_DATA
from tests.helpers.children import KillDuring, finish
from tests.helpers.datasets import batches
from tests.helpers.object_server import ObjectServer, serving
from tests.helpers.outcomes import losses, published
from tests.helpers.shards import SIZES, build, write_shards

ALL = "train-{000..006}.tar"
TIGHT = 1e-4  # GiB: a few shards of these


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    monkeypatch.setattr(object_storage, "FIRST_DELAY", 0.001)
    (tmp_path / "far").mkdir()
    write_shards(tmp_path / "far")
    with serving(tmp_path / "far") as running:
        yield running


def fetched(address: str, cache: Path, **options: Any) -> WebDataset:
    chosen = {"urls": f"{address}/{ALL}", "img_size": 16, "cache_gib": 1.0, "shuffle_shards": 1}
    return WebDataset(**{**chosen, "cache_folder": str(cache), "validation_images": 4, **options})


def held(cache: Path) -> list[int]:
    """Bytes of each shard there; a thread that fetches ahead may put one out while they are looked at."""
    sizes = []
    for path in cache.glob("*.tar"):
        with suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return sizes


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    assert [(b.ids, b.captions) for b in found] == [(b.ids, b.captions) for b in expected]
    assert all((a.images == b.images).all() for a, b in zip(found, expected, strict=True))


def test_samples_are_those_of_local_shards(server: ObjectServer, tmp_path: Path) -> None:
    far, near = fetched(server.address, tmp_path / "cache"), build(tmp_path / "far")
    assert isinstance(far.train, FetchedImages)
    assert far.train.contents() == near.train.contents()  # type: ignore[union-attr]
    assert far.train.fingerprint(times=False) == near.train.fingerprint(times=False)  # type: ignore[union-attr]
    assert len(far.validation) == 4 < len(near.validation)
    a, b = (data.validation.read(3, random.Random(0)) for data in (far, near))
    assert a.id == b.id
    assert (a.image == b.image).all()
    whole = sum(path.stat().st_size for path in (tmp_path / "far").glob("*.tar"))
    assert far.notes[0].startswith(f"7 shards of {whole / 2**30:.1g}"[:11])
    assert "are to be fetched into" in far.notes[0]


def test_an_epoch_is_every_sample_once_shuffled_in_blocks_of_shards(server: ObjectServer, tmp_path: Path) -> None:
    data = fetched(server.address, tmp_path / "cache", shuffle_shards=2)
    orders = []
    for epoch in range(3):
        order = [i for batch in epoch_batches(data.train, 1, seed=3, epoch=epoch) for i in batch]  # type: ignore[arg-type]
        assert sorted(order) == list(range(len(data.train)))
        shards = [data.train.entries[i].place.shard.name for i in order]  # type: ignore[union-attr]
        names = list(dict.fromkeys(shards))
        for pair in (names[i : i + 2] for i in range(0, 7, 2)):  # each block ends before the next begins
            places = [place for place, name in enumerate(shards) if name in pair]
            assert places == list(range(places[0], places[-1] + 1))
        orders.append(order)
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("gib", [1.0, TIGHT])
def test_any_number_of_readers_continues_anywhere(server: ObjectServer, tmp_path: Path, gib: float) -> None:
    data = fetched(server.address, tmp_path / "cache", cache_gib=gib)
    whole = batches(data.train, 28)
    for first, workers in ((0, 2), (9, 0), (17, 3)):
        assert_same(batches(data.train, 28, first=first, workers=workers), whole[first:])
    other = fetched(server.address, tmp_path / "other", cache_gib=1.0)
    assert_same(batches(other.train, 28), whole)
    shares = [batches(data.train, 6, rank=rank, ranks=2) for rank in (0, 1)]
    assert [a.ids + b.ids for a, b in zip(*shares, strict=True)] == [b.ids for b in whole[:6]]
    assert sum(held(tmp_path / "cache")) <= gib * 2**30
    assert (len(held(tmp_path / "cache")) == 7) is (gib == 1)


def test_a_server_that_breaks_off_and_is_busy_loses_nothing(server: ObjectServer, tmp_path: Path) -> None:
    whole = batches(build(tmp_path / "far").train, 1)
    assert whole
    server.breaking, server.busy = 9, 3
    data = fetched(server.address, tmp_path / "cache")
    server.breaking, server.busy = 9, 3
    found = batches(data.train, updates_per_epoch(data.train, 1), size=1)
    assert len({batch.ids[0] for batch in found}) == len(data.train)
    assert not any(batch.bad for batch in found)
    again = [span for name, span in server.asked if span and not span.endswith("-0") and span.endswith("-")]
    assert again  # what broke off was gone on with


@pytest.mark.parametrize("workers", [0, 2])
def test_a_vanished_server_gives_one_error_with_the_shard(server: ObjectServer, tmp_path: Path, workers: int) -> None:
    data = fetched(server.address, tmp_path / "cache", cache_gib=TIGHT)
    server.busy = 10**9
    with pytest.raises(UserError, match=r"cannot fetch the shard http://.*/train-00\d\.tar into .*5 attempts.*503"):
        batches(data.train, 15, workers=workers)
    server.busy = 0
    assert len(batches(data.train, 15, workers=workers)) == 15


def test_a_full_disk_gives_one_error_with_the_shard(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fetched(server.address, tmp_path / "cache", cache_gib=TIGHT)
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(Path, "rename", lambda self, target: (_ for _ in ()).throw(full))
    with pytest.raises(UserError, match=r"cannot fetch the shard .*train-00\d\.tar into .*No space left on device"):
        batches(data.train, 15)
    monkeypatch.undo()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(ValueError, match=r"its disk has room for .*set a smaller data\.cache_gib"):
        fetched(server.address, tmp_path / "other")


def test_a_shard_that_was_written_again_ends_the_run(server: ObjectServer, tmp_path: Path) -> None:
    data = fetched(server.address, tmp_path / "cache")
    for path in (tmp_path / "far").glob("*.tar"):
        os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match=r"the shard .*\.tar is another one than at the start"):
        batches(data.train, 14)
    assert len(batches(fetched(server.address, tmp_path / "cache").train, 14)) == 14


def test_a_digest_is_compared_where_an_index_has_one(server: ObjectServer, tmp_path: Path) -> None:
    for path in (tmp_path / "far").glob("*.tar"):
        write(path)
        data = bytearray(path.read_bytes())
        data[-1] = 1  # the same size
        path.write_bytes(data)
    with pytest.raises(UserError, match=r"cannot fetch the shard .*its bytes are not those of its index \(SHA-256\)"):
        fetched(server.address, tmp_path / "cache")


def test_an_index_is_made_once_and_kept(server: ObjectServer, tmp_path: Path) -> None:
    first = fetched(server.address, tmp_path / "cache")
    server.sent.clear()
    again = fetched(server.address, tmp_path / "cache")
    # A byte of each shard, for its size and ETag (and one more where a connection was refused): a header is 512.
    assert max(server.sent.values()) < 4
    assert again.train.fingerprint() == first.train.fingerprint()  # type: ignore[union-attr]


def test_an_index_beside_the_shards_spares_their_headers(server: ObjectServer, tmp_path: Path) -> None:
    plain = fetched(server.address, tmp_path / "plain")
    for path in (tmp_path / "far").glob("*.tar"):
        write(path)
    server.asked.clear()
    data = fetched(server.address, tmp_path / "cache")
    assert {span for name, span in server.asked if name.endswith(".tar")} <= {"bytes=0-0", None}
    assert data.train.fingerprint() == plain.train.fingerprint()  # type: ignore[union-attr]
    index = tmp_path / "far" / "train-003.tar.index.json"
    other = index.read_text().replace('"size":', '"size":9')
    for text, told in (("{}", "no index of a shard"), (other, "this one has")):
        index.write_text(text)
        with pytest.raises(ValueError, match=f"train-003.tar.index.json is .*{told}.*write it again"):
            fetched(server.address, tmp_path / told)


def test_a_server_without_ranges_needs_indices(server: ObjectServer, tmp_path: Path) -> None:
    server.ranges = False
    with pytest.raises(UserError, match=r"train-00\d\.tar: the server does not send parts of files .*shard_index"):
        fetched(server.address, tmp_path / "cache")
    for path in (tmp_path / "far").glob("*.tar"):
        write(path)
    server.breaking = 5
    data = fetched(server.address, tmp_path / "cache")
    assert len(batches(data.train, 10)) == 10


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_file_systems_of_fsspec_are_read(server: ObjectServer, tmp_path: Path, scheme: str) -> None:
    expected = fetched(server.address, tmp_path / "cache")
    if scheme == "memory":
        for path in (tmp_path / "far").glob("*.tar"):
            fsspec.filesystem("memory").pipe(f"/set/{path.name}", path.read_bytes())
    folder = "memory://set" if scheme == "memory" else f"file://{tmp_path}/far"
    for urls in (f"{folder}/{ALL}", f"{folder}/train-*.tar"):
        data = fetched("", tmp_path / scheme, urls=urls, cache_gib=TIGHT)
        assert_same(batches(data.train, 14, workers=2), batches(expected.train, 14))
    with pytest.raises(ValueError, match="there is no file"):
        fetched("", tmp_path / scheme, urls=f"{folder}/absent-*.tar")
    with pytest.raises(UserError, match=r"cannot read the shard .*absent\.tar"):
        fetched("", tmp_path / scheme, urls=f"{folder}/absent.tar")


def test_what_cannot_be_is_told_before_anything_is_read(server: ObjectServer, tmp_path: Path) -> None:
    for options, told in (
        ({"urls": "s3://bucket/a.tar", "cache_gib": None}, r"say how many GiB may stay there"),
        ({"epoch_size": 9}, "epoch_size is of shards that are streamed"),
        ({"urls": "pipe:cat a"}, "a command's output is streamed"),
        ({"urls": str(tmp_path / "far" / "train-000.tar")}, "cache_gib is of shards that are fetched"),
        ({"buckets": 2.0}, "need local shards"),
        ({"cache_gib": 1e-5}, r"too little for the 3 shards .*set 0\.\d+ or more, or a smaller data\.shuffle_shards"),
        ({"token_env": "OTHER"}, "no variable OTHER"),
    ):
        with pytest.raises(ValueError, match=told):
            fetched(server.address, tmp_path / "cache", **options)
    if not pytest.importorskip("importlib.util").find_spec("s3fs"):
        with pytest.raises(ValueError, match=r's3:// needs a library .*pip install "fluxflow-exp\[storage\]"'):
            fetched("", tmp_path / "cache", urls="s3://bucket/a.tar")


def test_latents_that_are_cached_come_in_the_same_order(server: ObjectServer, tmp_path: Path) -> None:
    data = fetched(server.address, tmp_path / "cache")
    near = build(tmp_path / "far").train
    for source in (data.train, near):
        cache = LatentCache(tmp_path / "latents", source)  # type: ignore[arg-type]
        plain, cached = (epoch_batches(each, 4, seed=3, epoch=1) for each in (source, cache))  # type: ignore[arg-type]
        assert plain == cached


def test_what_is_read_in_order_is_fetched_ahead_in_order(server: ObjectServer, tmp_path: Path) -> None:
    data = fetched(server.address, tmp_path / "cache")
    for path in (tmp_path / "cache").glob("*.tar"):  # where held-out pictures were
        path.unlink()
    found = read_lists(data.train, [[0], [1]], num_workers=0)  # type: ignore[arg-type]
    next(found)
    far = [path.stat().st_size for path in sorted((tmp_path / "far").glob("*.tar"))]
    deadline = time.monotonic() + 10
    while sorted(held(tmp_path / "cache")) != sorted(far[:2]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(held(tmp_path / "cache")) == sorted(far[:2])
    found.close()


def test_a_mixture_needs_all_its_shards(server: ObjectServer, tmp_path: Path) -> None:
    near, far = build(tmp_path / "far"), fetched(server.address, tmp_path / "cache")
    mixed = Mixture({"a": near, "b": far}, {"a": 1, "b": 1})
    assert len(batches(mixed.train, 5)) == 5
    tight = fetched(server.address, tmp_path / "other", cache_gib=TIGHT)
    with pytest.raises(ValueError, match="b: a mixture draws from all shards"):
        Mixture({"a": near, "b": tight}, {"a": 1, "b": 1})


def test_a_run_may_go_on_with_another_cache() -> None:
    config = {name: {} for name in ("model", "stage", "optimizer", "scheduler")} | {"seed": 1}
    before, after = ({**config, "data": {"cache_gib": gib, "cache_folder": str(gib)}} for gib in (1, 2))
    assert identity_differences(before, after) == {}
    assert identity_differences(before, {**config, "data": {"shuffle_shards": 2}})


@pytest.mark.slow
def test_a_pipeline_that_is_killed_ends_bit_for_bit(server: ObjectServer, tmp_path: Path) -> None:
    words = ["data=webdataset", f"data.urls='{server.address}/{ALL}'", f"+data.cache_gib={TIGHT}", "data.img_size=16"]
    words += ["+data.shuffle_shards=1", "data.validation_images=4", "checkpoint.every_updates=1"]
    words += ["stage.steps.vae.n_epochs=2", "stage.steps.vae.batch_size=8"]

    def values(name: str, cache: str) -> dict[str, Any]:
        places = [f"output_root={tmp_path / name}", f"+data.cache_folder={tmp_path / cache}"]
        return resolve(compose_config(["stage=vae", *TOY_WITHOUT_DATA, *words, *places]))

    whole, killed = tmp_path / "whole" / "vae", tmp_path / "killed" / "vae"
    assert finish(values("whole", "a"), tmp_path / "log") == 0
    for number in (2, 6):
        fault = KillDuring("fluxflow_exp.data.shard_cache:ShardCache", "_download", number)
        assert finish(values("killed", "b"), tmp_path / "log", fault) == -signal.SIGKILL
    late = KillDuring("fluxflow_exp.trainers.base:Trainer", "_save", 5, "after")
    assert finish(values("killed", "c"), tmp_path / "log", late) == -signal.SIGKILL
    assert finish(values("killed", "d"), tmp_path / "log") == 0
    assert published(whole) == published(killed)
    assert losses(whole) == losses(killed)


def test_all_samples_count(server: ObjectServer, tmp_path: Path) -> None:
    data = fetched(server.address, tmp_path / "cache", validation_fraction=0.5, validation_images=100)
    assert len(data.train) + len(data.validation) == sum(SIZES)
