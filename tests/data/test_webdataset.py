"""Shards: every sample once, bad members counted, streams that continue, packing."""

import json
import os
import random
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fluxflow_exp import pipeline
from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.data import stream
from fluxflow_exp.data.loader import updates_per_epoch
from fluxflow_exp.data.tar import split_name
from fluxflow_exp.data.webdataset import WebDataset, expand
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine.ranks import Ranks
from fluxflow_exp.trainers.base import Trainer
from tests.conftest import TOY_STEPS, TOY_WITHOUT_DATA
from tests.helpers.datasets import batches
from tests.helpers.shards import SIZES, add, build, image, write_shards


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(tmp_path)
    return tmp_path


def test_names_are_split_as_webdataset_does() -> None:
    assert split_name("a.b/c.seg.PNG") == ("a.b/c", "seg.png")
    assert split_name("c") == ("c", "")


def test_all_shards_are_read_whatever_names_them(shards: Path) -> None:
    for urls in (
        f"{shards}/train-{{000..006}}.tar",
        f"{shards}/*.tar",
        [f"{shards}/train-000.tar", f"{shards}/t*.tar"],
    ):
        data = build(shards, urls=urls)
        assert len(data.train) + len(data.validation) == sum(SIZES)
    with pytest.raises(ValueError, match=r"there is no file .*absent"):
        build(shards, urls=f"{shards}/absent-*.tar")


def test_an_epoch_is_every_sample_once_with_its_caption(shards: Path) -> None:
    data = build(shards)
    total = updates_per_epoch(data.train, 1)
    found = batches(data.train, total, size=1)
    assert len({b.ids[0] for b in found}) == total == len(data.train)
    for batch in found:
        number = int(batch.captions[0].removeprefix("picture "))
        assert batch.images[0, 0, 0, 0] == number % 256


def test_captions_may_be_a_field_of_a_json(tmp_path: Path) -> None:
    write_shards(tmp_path, as_json=True)
    data = build(tmp_path, label_key="json", caption_key="prompt")
    assert all(c.startswith("picture ") for c in data.prompts)
    with pytest.raises(ValueError, match="no text in the field 'text'"):
        build(tmp_path, label_key="json", caption_key="text")


@pytest.mark.parametrize("kind", ["local", "streamed"])
def test_a_list_of_captions_is_chosen_from(tmp_path: Path, kind: str) -> None:
    write_shards(tmp_path, several=True)
    options: dict[str, Any] = {"label_key": "json", "caption_key": "prompt", "validation_fraction": 0.3}
    urls = {"urls": [f"pipe:cat {path}" for path in sorted(tmp_path.glob("*.tar"))], "epoch_size": 40}
    data = build(tmp_path, **options, **(urls if kind == "streamed" else {}))
    assert {each.split()[0] for each in data.prompts} == {"long"}
    assert any("have several captions, 2.0 on average" in note for note in data.notes)
    whole = [batch.captions for batch in batches(data.train, 40, workers=1)]
    assert [batch.captions for batch in batches(data.train, 40, first=13, workers=1)] == whole[13:]
    counts = Counter(caption.split()[0] for captions in whole for caption in captions)
    assert counts["long"] / 160 == pytest.approx(0.75, abs=0.14)
    if kind == "local":
        assert [batch.captions for batch in batches(data.train, 40, workers=2)] == whole


def test_a_field_that_is_no_list_of_captions_loses_its_sample(tmp_path: Path) -> None:
    faults = {"[]": "no text in the field", '["a", 1]': "no text in the field", '["a", " "]': "an empty caption",
              '"a", "caption_weight": -1': "must be a number above 0"}  # fmt: skip
    members = [(f"{i}.json", f'{{"prompt": {text}}}'.encode()) for i, text in enumerate(['"fine"'] * 9 + list(faults))]
    path = one_shard(
        tmp_path, [pair for name, data in members for pair in ((name[:-4] + "png", image(1)), (name, data))]
    )
    found = WebDataset(urls=str(path), label_key="json", caption_key="prompt", img_size=16, validation_fraction=0.3).bad
    assert [fault in why for (_, why), fault in zip(found[8:], faults.values(), strict=True)] == [True] * len(faults)


def damage(folder: Path) -> None:
    """One shard with a sample without image, one without caption, one of rubbish; and one that is cut off."""
    with tarfile.open(folder / "train-000.tar", "w") as archive:
        for i in range(9):
            if i != 2:
                add(archive, f"a{i}.png", b"rubbish" if i == 5 else image(i))
            if i != 3:
                add(archive, f"a{i}.txt", b"a caption")
    cut = folder / "train-002.tar"
    cut.write_bytes(cut.read_bytes()[: 512 * 4 * 8 + 700])  # in the middle of the ninth sample's image


def test_damage_loses_only_what_it_hit_and_is_counted(shards: Path) -> None:
    damage(shards)
    data = build(shards)
    listed = dict(data.bad)
    assert "no image member" in listed["train-000.tar/a2"]
    assert "no caption member txt" in listed["train-000.tar/a3"]
    assert any(name.startswith("train-002.tar") for name in listed)
    assert len(data.train) + len(data.validation) == sum(SIZES) - 2 - 9
    found = batches(data.train, updates_per_epoch(data.train, 1), size=1)
    bad = [name for b in found for name, _ in b.bad]
    assert bad in ([], ["train-000.tar/a5"])  # the split may have held it out
    assert len(found) == len(data.train)


def one_shard(folder: Path, members: list[tuple[str, bytes]]) -> Path:
    """A shard of these members behind eight whole samples."""
    path = folder / "one.tar"
    with tarfile.open(path, "w") as archive:
        for i in range(8):
            add(archive, f"whole{i}.png", image(i))
            add(archive, f"whole{i}.txt", b"a picture")
        for name, data in members:
            add(archive, name, data)
    return path


@pytest.mark.parametrize(
    ("members", "name", "reason"),
    [
        ([("a.png", b"x"), ("a.txt", b"one"), ("a.png", b"y"), ("a.txt", b"two")], "a", "png member stands twice"),
        ([("a.png", b"x"), ("a.txt", b"one"), ("a.TXT", b"two")], "a", "txt member stands twice"),
        ([("a.0001.png", b"x"), ("a.0001.txt", b"one")], "a", "first dot, so that 0001.png is an extension"),
        ([(f"a.{i:04}.png", b"x") for i in range(999)], "a", "0004.png and 994 more"),
        ([("a.png", b"x"), ("a.txt", b"\xff")], "a", "txt member cannot be read"),
        ([("a.png", b"x"), ("a.txt", "\ufeff ".encode())], "a", "empty caption"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_sample_that_is_not_one_is_told_of_briefly(
    tmp_path: Path, members: list[tuple[str, bytes]], name: str, reason: str, streamed: bool
) -> None:
    path = one_shard(tmp_path, members)
    if streamed:
        data = WebDataset(urls=f"pipe:cat {path}", img_size=16, epoch_size=40, validation_fraction=0.3)
        found = {name: why for batch in batches(data.train, 10) for name, why in batch.bad}
    else:
        found = dict(WebDataset(urls=str(path), img_size=16, validation_fraction=0.3).bad)
    (told,) = (why for key, why in found.items() if key.endswith(name))
    assert reason in told
    assert len(told) < 200


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        (b'{"prompt": "half \\ud800"}', "lone surrogate U+D800"),
        (b"[" * 100_000, "json member cannot be read"),
        (b"\xef\xbb\xbf" + b'{"prompt": "behind a mark"}', None),
    ],
    ids=["surrogate", "too deep", "mark"],
)
def test_captions_in_json_are_whole_text_or_told_of(tmp_path: Path, caption: bytes, expected: str | None) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for i in range(9):
            add(archive, f"{i}.png", image(i))
            add(archive, f"{i}.json", caption if i == 0 else b'{"prompt": "a picture"}')
    data = WebDataset(
        urls=f"{tmp_path}/a.tar", img_size=16, label_key="json", caption_key="prompt", validation_fraction=0.3
    )
    captions = {e.id: e.caption for source in (data.train, data.validation) for e in source.entries}  # type: ignore[union-attr]
    if expected is None:
        assert captions["a.tar/0"] == "behind a mark"
    else:
        assert len(captions) == 8
        assert expected in dict(data.bad)["a.tar/0"]


def test_text_members_lose_their_byte_order_mark(tmp_path: Path) -> None:
    path = one_shard(tmp_path, [("a.png", image(9)), ("a.txt", "\ufeffa red\u2028kite".encode())])
    data = WebDataset(urls=str(path), img_size=16, validation_fraction=0.3)
    captions = {e.id: e.caption for source in (data.train, data.validation) for e in source.entries}  # type: ignore[union-attr]
    assert captions["one.tar/a"] == "a red kite"


def test_files_that_exist_are_meant_by_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "data [v2] {a,b}"
    folder.mkdir()
    for name in ("shard [1].tar", "shard {1,2}.tar", "plain-1.tar", "plain-2.tar"):
        (folder / name).touch()
    for name in ("shard [1].tar", "shard {1,2}.tar"):
        assert expand(f"{folder}/{name}") == [folder / name]
    (tmp_path / "data [v2]").mkdir()
    (tmp_path / "data [v2]" / "x-1.tar").touch()
    for pattern in ("x-*.tar", "x-{1..1}.tar"):
        assert expand(f"{tmp_path}/data [v2]/{pattern}") == [tmp_path / "data [v2]" / "x-1.tar"]
    with pytest.raises(ValueError, match="is a folder"):
        build(tmp_path, urls=str(folder))


def test_a_header_that_leads_backwards_ends(tmp_path: Path) -> None:
    """CVE-2025-8194: without a check the same header is read again and again."""
    path = one_shard(tmp_path, [("a.png", image(0)), ("a.txt", b"a picture")])
    data = bytearray(path.read_bytes())
    start = data.index(b"a.png\0")
    data[start + 124 : start + 136] = b"\xff" * 10 + b"\xfe\0"  # -512 bytes long
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    path.write_bytes(data)
    found = WebDataset(urls=str(path), img_size=16, validation_fraction=0.3)
    assert found.bad == [("one.tar", "the shard is damaged after 8 samples: a member of -512 bytes")]


class Quiet(SimpleHTTPRequestHandler):
    asked: list[str | None] = []

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Authorization"))
        super().do_GET()


@pytest.fixture
def server(shards: Path) -> Iterator[str]:
    Quiet.asked = []
    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(shards)))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()


def streamed(address: str, **options: Any) -> WebDataset:
    chosen = {"urls": f"{address}/train-{{000..006}}.tar", "img_size": 16, "epoch_size": 48, "shuffle_buffer": 5}
    return WebDataset(**{**chosen, "validation_images": 4, **options})


@pytest.mark.parametrize("workers", [0, 3])
def test_a_stream_continues_where_it_was_with_as_many_readers(server: str, workers: int) -> None:
    data = streamed(server)
    whole = batches(data.train, 30, workers=workers)
    assert len({i for b in whole[:12] for i in b.ids}) > 30
    for first in (1, 5, 12, 17):
        rest = batches(data.train, 30, first=first, workers=workers)
        assert [(b.ids, b.captions) for b in rest] == [(b.ids, b.captions) for b in whole[first:]]
        assert all((a.images == b.images).all() for a, b in zip(rest, whole[first:], strict=True))


def test_another_number_of_readers_is_refused_within_an_epoch_and_not_after_it(server: str) -> None:
    setup = SimpleNamespace(name="vae", num_workers=2, data=streamed(server), ranks=Ranks())
    trainer: Any = SimpleNamespace(setup=setup, length=SimpleNamespace(updates=36, updates_per_epoch=12))
    with pytest.raises(UserError, match=r"set hardware\.devices=1, hardware\.num_workers=3 \(now .*num_workers=2\)"):
        Trainer.load_state_dict(trainer, {"readers": [1, 3], "update": 5})
    with pytest.raises(KeyError):  # at an epoch's end it goes on to the rest of the state
        Trainer.load_state_dict(trainer, {"readers": [1, 3], "update": 24})
    with pytest.raises(UserError, match="stands at update 48, and would now end after 36"):
        Trainer.load_state_dict(trainer, {"readers": [1, 3], "update": 48})


def test_a_pipeline_trains_on_a_stream(server: str, tmp_path: Path) -> None:
    data = ["data=webdataset", f"data.urls='{server}/train-{{000..006}}.tar'", "data.epoch_size=24", "data.img_size=16"]
    only = ["~stage.steps.vae_gan", "data.validation_images=4", f"output_root={tmp_path / 'out'}"]
    steps = [o for o in TOY_STEPS if "vae_gan" not in o]
    pipeline.run(resolve(compose_config(["stage=quickstart", *TOY_WITHOUT_DATA, *steps, *data, *only])))
    found = json.loads((tmp_path / "out" / "quickstart" / "summary.json").read_text())["steps"]
    assert {name: step["updates"] for name, step in found.items()} == {"vae": 6, "flow": 6}


def test_ranks_and_workers_of_a_stream_share_its_shards(server: str) -> None:
    data = streamed(server)
    found = [batches(data.train, 6, workers=2, rank=rank, ranks=2) for rank in (0, 1)]
    seen = [[i for b in batches for i in b.ids] for batches in found]
    assert not set(seen[0]) & set(seen[1])
    with pytest.raises(UserError, match=r"hardware\.num_workers to 7 or less"):
        batches(data.train, 1, workers=8)


def test_a_token_goes_into_the_header_and_nowhere_else(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "secret")
    data = streamed(server, token_env="MY_TOKEN")
    batches(data.train, 2)
    assert set(Quiet.asked) == {"Bearer secret"}
    with pytest.raises(ValueError, match="no variable OTHER"):
        streamed(server, token_env="OTHER")
    with pytest.raises(UserError, match=r"cannot read the shard .*404"):
        streamed(server, urls=f"{server}/absent.tar?signature=secret")


def test_a_command_is_a_shard(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "FIRST_DELAY", 0.01)
    data = streamed("", urls=f"pipe:cat {shards}/train-002.tar", epoch_size=8)
    assert len(batches(data.train, 4)) == 4
    with pytest.raises(UserError, match="exit status 3"):
        streamed("", urls="pipe:exit 3", epoch_size=8)


def test_a_damaged_stream_loses_only_what_it_hit(server: str, shards: Path) -> None:
    damage(shards)
    found = batches(streamed(server).train, 24)
    bad = dict(b for batch in found for b in batch.bad)
    assert any("no caption member" in reason for reason in bad.values())
    assert any("damaged" in reason for reason in bad.values())
    assert all(len(b.ids) == 4 for b in found)


def test_streams_need_an_epoch_and_no_company(shards: Path) -> None:
    with pytest.raises(ValueError, match="epoch_size is not set"):
        build(shards, urls="http://localhost/a.tar")
    with pytest.raises(ValueError, match="cannot be mixed"):
        build(shards, urls=["http://localhost/a.tar", f"{shards}/train-000.tar"])
    assert expand("hf://datasets/o/n/x-{0..1}.tar") == [
        f"https://huggingface.co/datasets/o/n/resolve/main/x-{i}.tar" for i in range(2)
    ]
    with pytest.raises(ValueError, match="brace range"):
        expand("hf://datasets/o/n/*.tar")


@pytest.mark.slow
def test_two_ranks_of_three_workers_killed_anywhere_show_each_sample_once(shards: Path) -> None:
    """Readers are separate processes that are killed at random moments and started again from the last batch."""
    data = build(shards)
    per_epoch = updates_per_epoch(data.train, 4)
    script = Path(__file__).with_name("read_shards.py")
    seen: dict[int, list[str]] = {}
    moments = random.Random(0)
    for rank in (0, 1):
        log = shards / f"rank{rank}.txt"
        log.touch()
        deaths = 0
        while len(log.read_text().splitlines()) < 2 * per_epoch:
            command = [sys.executable, str(script), str(shards), str(rank), str(log), str(2 * per_epoch)]
            process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
            try:
                process.wait(timeout=moments.uniform(2.5, 4.5))
                assert process.returncode == 0
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                deaths += 1
        assert deaths >= 2
        for number, line in enumerate(log.read_text().splitlines()[: 2 * per_epoch]):
            seen.setdefault(number // per_epoch, []).extend(json.loads(line))
    for ids in seen.values():
        assert len(ids) == len(set(ids)) == 4 * per_epoch
    assert set(seen) == {0, 1}
