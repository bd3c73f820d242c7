"""Captions that came lately: their tokens are kept within a bound, and are what the encoder gives."""

from pathlib import Path

import pytest
import torch

from fluxflow_exp import pipeline
from fluxflow_exp.errors import UserError
from fluxflow_exp.models.text_encoder import ByteTextEncoder, Text
from fluxflow_exp.trainers.recent_texts import RecentTexts
from tests.conftest import toy
from tests.helpers.children import KillDuring, finish
from tests.helpers.outcomes import published

ROW = 16 * 4  # bytes of a token


class Counted:
    """An encoder that notes what it is asked."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.encoder = ByteTextEncoder(width=16, depth=1, heads=2, max_length=24)
        self.calls: list[list[str]] = []

    def __call__(self, captions: list[str]) -> Text:
        self.calls.append(captions)
        found: Text = self.encoder(captions)
        return found


def _kept(counted: Counted, rows: int, *, alone: bool = False, folder: Path | None = None) -> RecentTexts:
    device = torch.device("cpu")
    made = RecentTexts(counted, room=rows * ROW, form="float32", device=device, alone=alone, folder=folder)
    counted.calls.clear()
    return made


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_is_kept_is_what_the_encoder_gives_and_is_not_asked_again(tmp_path: Path, on_disk: bool) -> None:
    counted = Counted()
    recent = _kept(counted, 100, folder=tmp_path / "cache" if on_disk else None)
    captions = ["a circle", "", "a square", "a circle"]
    for _ in range(2):
        found, expected = recent(captions), counted.encoder(captions)
        assert torch.equal(found.mask, expected.mask)
        torch.testing.assert_close(found.tokens, expected.tokens, rtol=1e-5, atol=1e-6)
    assert counted.calls == [["a circle", "", "a square"]]
    assert not on_disk or list((tmp_path / "cache").iterdir()) == []  # the file has no name


def test_the_least_recently_used_make_room_and_the_bound_holds() -> None:
    counted = Counted()
    recent = _kept(counted, 20)  # "a circle" has nine tokens
    recent(["a circle"])
    recent(["a square"])
    recent(["a circle"])
    recent(["triangle"])  # a square leaves
    recent(["a circle"])
    assert counted.calls == [["a circle"], ["a square"], ["triangle"]]
    assert list(recent.places) == ["triangle", "a circle"]
    torch.manual_seed(1)
    for number in range(200):
        caption = "x" * int(torch.randint(0, 24, ())) + str(number % 7)
        torch.testing.assert_close(recent([caption]).tokens, counted.encoder([caption]).tokens, rtol=1e-5, atol=1e-6)
        rows = [row for places in recent.places.values() for row in places.tolist()]
        assert len(set(rows)) == len(rows) <= 20
    assert recent.rows.shape == (20, ROW)


def test_a_batch_that_is_larger_than_the_room_is_whole_all_the_same() -> None:
    counted = Counted()
    recent = _kept(counted, 12)
    recent(["a circle"])
    captions = ["a square", "a circle", "x" * 24, "triangle"]
    torch.testing.assert_close(recent(captions).tokens, counted.encoder(captions).tokens, rtol=1e-5, atol=1e-6)


def test_alone_a_captions_bits_do_not_depend_on_what_came_before() -> None:
    counted = Counted()
    first, second = _kept(counted, 1000, alone=True), _kept(counted, 1000, alone=True)
    captions = ["a circle", "", "a longer caption", "ab"]
    second(["ab"])
    for caption in captions:
        second([caption])
    assert torch.equal(first(captions).tokens, second(captions).tokens)
    assert all(len(call) == 1 for call in counted.calls)


def test_room_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"cache.recent_gib is 10 bytes: a token has 64"):
        RecentTexts(Counted(), room=10, form="float32", device=torch.device("cpu"), alone=True)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(UserError, match=r"cache.recent_gib: .* does not take .* GiB .*No space left"):
        _kept(Counted(), 100, folder=tmp_path)


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, place: str) -> None:
    words = ["stage.steps.flow.freeze=[text_encoder]", "stage.steps.flow.batch_size=8", "stage.steps.flow.n_epochs=3"]
    words += ["cache.mode=off", "cache.recent_gib=3e-5", f"cache.recent_on={place}", "evaluation.every_epochs=null"]
    words += ["samples.every_epochs=null", "stage.steps.flow.max_updates=9"]
    undisturbed, killed = (toy(tmp_path / name, *words, stage="flow_cfg") for name in ("undisturbed", "killed"))
    pipeline.run(undisturbed)
    fault = KillDuring("fluxflow_exp.trainers.base:Trainer", "update", 5)
    assert finish(killed, tmp_path / "log", _load, fault) == -9, (tmp_path / "log").read_text()
    assert finish(killed, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert published(tmp_path / "killed" / "flow_cfg") == published(tmp_path / "undisturbed" / "flow_cfg")


def _load() -> None:
    import fluxflow_exp.trainers.flow  # noqa: F401 - a child loads it late, and the fault looks for it at once
