"""A server that does not answer is known at once, and what is in a cache of Hugging Face's is taken without asking."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants

from fluxflow_exp.data.hf_dataset import HFDataset
from fluxflow_exp.machine import network
from fluxflow_exp.models.huggingface import HuggingFaceTextEncoder
from tests.helpers.text_encoders import WIDTH, save


@pytest.fixture(autouse=True)
def _first_time() -> None:
    for each in (network.silence, network._say):
        each.cache_clear()


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address at which nobody listens, in the place of the hub."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    return address


@pytest.fixture
def server() -> Iterator[str]:
    """The address of one that has nothing to give."""

    class Nothing(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

    found = HTTPServer(("127.0.0.1", 0), Nothing)
    threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()


def test_whatever_a_server_says_is_an_answer(server: str, closed: str) -> None:
    assert network.silence(server) == ""
    assert network.silence(closed) == f"{closed} does not answer (Connection refused)"
    with pytest.raises(ConnectionError, match="does not answer"):
        network.check(closed)


def test_one_that_is_mute_is_waited_for_no_longer_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "SECONDS", 0.1)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        assert "does not answer" in network.silence(f"http://127.0.0.1:{mute.getsockname()[1]}")


def test_without_the_hub_its_sets_and_encoders_are_refused_at_once(
    closed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    started = time.monotonic()
    said = f"not on this machine, and {closed} does not answer"
    with pytest.raises(ValueError, match=f"dataset_name: someone/set cannot be opened as a data set: it is {said}"):
        HFDataset(dataset_name="someone/set")
    with pytest.raises(ValueError, match=f"'someone/absent' is {said}"):
        HuggingFaceTextEncoder(name="someone/absent")
    assert time.monotonic() - started < 10  # where the first one's files alone took 23 s
    assert not constants.HF_HUB_OFFLINE
    assert not datasets.config.HF_HUB_OFFLINE
    noted = capsys.readouterr().err
    assert f"Note: {closed} does not answer (Connection refused): the data set someone/set is looked for on" in noted


def test_without_the_hub_what_is_cached_is_taken(closed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    kept, commit = tmp_path / "models--someone--encoder", "a" * 40
    save(kept / "snapshots" / commit, "qwen3")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commit)
    started = time.monotonic()
    assert HuggingFaceTextEncoder(name="someone/encoder").width == WIDTH
    assert time.monotonic() - started < 10
