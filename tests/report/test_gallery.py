"""Pictures over time: which, at what moment, and how many bytes of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fluxflow_exp.report import gallery
from fluxflow_exp.report.gallery import Frame
from tests.helpers.carded import make_carded


def noise(path: Path, side: int, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, lossless=True)
    return path


def frame(tmp_path: Path, step: str, update: int, seed: int, side: int = 16) -> Frame:
    return Frame(step, update, 1, [("", [(noise(tmp_path / f"{step}{update}-{seed}.webp", side, seed), "a star")])])


def test_runs_are_shown_at_equal_updates_of_equal_steps(tmp_path: Path) -> None:
    one = [frame(tmp_path, "vae", 10, 0), frame(tmp_path, "vae", 20, 1), frame(tmp_path, "flow", 10, 2)]
    two = [frame(tmp_path, "vae", 15, 3), frame(tmp_path, "flow", 10, 4)]
    found = gallery.gallery({"one": one, "two": two}, ["vae", "flow"])
    assert found is not None
    assert [(key["step"], key["update"]) for key in found["keys"]] == [
        ("vae", 10),
        ("vae", 15),
        ("vae", 20),
        ("flow", 10),
    ]
    assert [run["at"] for run in found["runs"]] == [[0, 0, 1, 2], [None, 0, 0, 1]]


def test_with_what_pictures_were_made_stands_beside_them(tmp_path: Path) -> None:
    made = frame(tmp_path, "vae", 10, 0)
    made.drawn = "640 images seen, averaged weights"
    found = gallery.gallery({"run": [made, frame(tmp_path, "vae", 20, 1)]}, ["vae"])
    assert found is not None
    assert [each["drawn"] for each in found["runs"][0]["frames"]] == ["640 images seen, averaged weights", ""]


def test_a_picture_that_comes_again_is_kept_once(tmp_path: Path) -> None:
    found = gallery.gallery({"run": [frame(tmp_path, "vae", n, 0) for n in range(5)]}, ["vae"])
    assert found is not None
    assert (len(found["keys"]), len(found["images"]), found["small"]) == (5, 1, [True])


def test_a_damaged_picture_is_left_out(tmp_path: Path) -> None:
    damaged = frame(tmp_path, "vae", 2, 1, side=240)
    (path,) = tmp_path.glob("vae2-*.webp")
    path.write_bytes(path.read_bytes()[:9000])
    found = gallery.gallery({"run": [frame(tmp_path, "vae", 1, 0), damaged]}, ["vae"])
    assert found is not None
    assert [len(each["rows"][0]["items"]) for each in found["runs"][0]["frames"]] == [1, 0]


def test_a_page_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = [frame(tmp_path, "vae", n, n, side=240) for n in range(30)]
    found = gallery.gallery({"run": every}, ["vae"])
    assert found is not None
    assert (len(found["keys"]), found["all"]) == (gallery.FRAMES, 30)
    assert [found["keys"][0]["update"], found["keys"][-1]["update"]] == [0, 29]
    size = sum(map(len, found["images"]))
    monkeypatch.setattr(gallery, "BYTES", size // 4)
    smaller = gallery.gallery({"run": every}, ["vae"])
    assert smaller is not None
    assert sum(map(len, smaller["images"])) * 3 / 4 <= size // 4
    assert [smaller["keys"][0]["update"], smaller["keys"][-1]["update"]] == [0, 29]


def test_pictures_that_are_gone_leave_no_moment(tmp_path: Path) -> None:
    from fluxflow_exp.report import facts

    run = make_carded(tmp_path)
    assert len(facts.read(run).frames) == 9
    for path in run.samples.glob("vae_001_*"):
        path.unlink()
    assert {each.step for each in facts.read(run).frames} == {"vae_gan", "flow"}
