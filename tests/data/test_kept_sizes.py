"""Sizes are kept for as long as files are the same, and read again where anything is in doubt."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fluxflow_exp.data import kept_sizes
from fluxflow_exp.data.buckets import Size
from fluxflow_exp.data.kept_sizes import KeptSizes

STATE = (100, 123456789)  # bytes and time of change


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(kept_sizes, "FOLDER", str(tmp_path / "sizes"))
    monkeypatch.setattr(kept_sizes, "MANY", 2)
    return tmp_path / "sizes"


def reads(size: Size, looked: list[Size]) -> Callable[[], Size]:
    def read() -> Size:
        looked.append(size)
        return size

    return read


def test_a_file_is_looked_at_once_until_it_changes(home: Path) -> None:
    looked: list[Size] = []
    for _ in range(2):
        known = KeptSizes(Path("pictures/a.png"), 2)
        assert known.size("a.png", STATE, reads((3, 4), looked)) == (3, 4)
        known.keep()
    assert looked == [(3, 4)]
    assert KeptSizes(Path("pictures/a.png"), 2).size("a.png", (100, 5), reads((6, 7), looked)) == (6, 7)
    assert KeptSizes(Path("others/a.png"), 2).size("a.png", STATE, reads((8, 9), looked)) == (8, 9)


def test_what_is_damaged_is_read_again(home: Path) -> None:
    known = KeptSizes(Path("pictures/a.png"), 2)
    known.size("a.png", STATE, lambda: (3, 4))
    known.keep()
    (path,) = home.iterdir()
    path.write_text(path.read_text().replace("[3, 4]", "[3, 5]"))
    assert KeptSizes(Path("pictures/a.png"), 2).size("a.png", STATE, lambda: (3, 4)) == (3, 4)


def test_few_pictures_those_of_shards_and_lost_ones_are_not_kept(home: Path) -> None:
    for known, state in [
        (KeptSizes(Path("a.png"), 1), STATE),
        (KeptSizes(None, 2), STATE),
        (KeptSizes(Path("a.png"), 2), None),
    ]:
        known.size("a.png", state, lambda: (3, 4))
        known.keep()
    assert not home.exists()


def test_a_disk_that_takes_nothing_stops_nothing(home: Path) -> None:
    home.write_text("")
    known = KeptSizes(Path("a.png"), 2)
    assert known.size("a.png", STATE, lambda: (3, 4)) == (3, 4)
    known.keep()
