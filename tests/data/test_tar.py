"""Shards as they may come: samples, bad ones, or one clear error; never anything else, and never for ever."""

import io
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from fluxflow_exp.data import stream, webdataset
from fluxflow_exp.data.protocols import BadSampleError
from fluxflow_exp.data.stream import Streamed
from fluxflow_exp.data.webdataset import WebDataset
from tests.helpers.mutated import headers, mutations, shard

SECONDS = 20
OPTIONS = {"img_size": 16, "label_key": "json", "caption_key": "prompt", "validation_fraction": 0.3}


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Iterator[bytes]:
    """A shard of twelve samples; what takes too long fails, and bars are not drawn."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt(f"not done after {SECONDS} s")  # no AssertionError: it would be taken for the data's

    monkeypatch.setattr(webdataset, "track", lambda parts, **_: parts)
    before = signal.signal(signal.SIGALRM, stop)
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 10, 10)).save(file, "PNG")
    yield shard([file.getvalue()] * 12)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def changed(whole: bytes, count: int) -> list[bytes]:
    """The shard, and twice `count` mutations of it."""
    return [whole, *mutations([whole], count=count, seed=0), *headers(whole, count=count, seed=0)]


@pytest.mark.parametrize("count", [30, pytest.param(800, marks=pytest.mark.slow)])
def test_a_mutated_local_shard(tmp_path: Path, whole: bytes, count: int) -> None:
    found = [local(tmp_path / "a.tar", data) for data in changed(whole, count)]
    assert found[0] == (12, [])
    assert min(samples for samples, _ in found) < 12
    assert all(reason and "\n" not in reason and len(reason) < 300 for _, reasons in found for reason in reasons)


def local(path: Path, data: bytes) -> tuple[int, list[str]]:
    """How many samples a shard gives, and why not more."""
    signal.alarm(SECONDS)
    path.write_bytes(data)
    try:
        found = WebDataset(urls=str(path), **OPTIONS)  # type: ignore[arg-type]
    except ValueError as error:
        return 0, [str(error)]
    good, reasons = 0, [reason for _, reason in found.bad]
    for source in (found.train, found.validation):
        for index in range(len(source)):
            try:
                good += source.read(index, random.Random(0)).image.shape == (3, 16, 16)  # type: ignore[union-attr]
            except BadSampleError as error:
                reasons.append(error.reason)
    return good, reasons


@pytest.mark.parametrize("count", [30, pytest.param(800, marks=pytest.mark.slow)])
def test_a_mutated_stream(whole: bytes, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "FIRST_DELAY", 0.0)
    found = [streamed(data, monkeypatch) for data in changed(whole, count)]
    assert found[0] == []
    assert any(found)
    assert all(reason and "\n" not in reason and len(reason) < 300 for reasons in found for reason in reasons)


def streamed(data: bytes, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Why not more samples came of a streamed shard."""

    @contextmanager
    def opened(url: str, token: str | None) -> Iterator[io.BytesIO]:
        yield io.BytesIO(data)

    monkeypatch.setattr(stream, "opened", opened)
    signal.alarm(SECONDS)
    try:
        found = WebDataset(urls="http://here/a.tar", epoch_size=20, validation_images=2, **OPTIONS)  # type: ignore[arg-type]
        assert isinstance(found.train, Streamed)
        given = found.train.samples(seed=0, epoch=0, slot=0, slots=1, skip=0)
        return [reason for _ in range(20) for _, reason in next(given)[1]]
    except ValueError as error:
        return [str(error)]
