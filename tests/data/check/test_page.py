"""The page of a check: one file, with what is troubled to see, whatever names and captions say."""

import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from fluxflow_exp.data.check import page
from fluxflow_exp.data.check.command import cli
from tests.data.check.test_command import picture

EVIL = "<script>alert(1)</script>.png"
CLOSED = {"meta", "link", "img", "br"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("page")
    (root / "a b").mkdir()
    for number in range(page.SHOWN + 4):
        picture(number).save(root / "a b" / f"{number}.png")
        shutil.copy(root / "a b" / f"{number}.png", root / "a b" / f"copy {number}.png")
    (root / "a b" / EVIL.replace("/", "-")).write_text("no picture")
    names = sorted(path.name for path in (root / "a b").iterdir())
    (root / "c.tsv").write_text("".join(f"{name}\t<b>{name}</b>\n" for name in names), encoding="utf-8")
    assert cli([str(root / "a b"), str(root / "c.tsv"), "--output", str(root / "page.html"), "--workers", "1"]) == 1
    return (root / "page.html").read_text(encoding="utf-8")


def test_copies_are_shown_side_by_side_as_far_as_a_page_holds_them(made: str) -> None:
    copies = made[made.index(">copies, byte for byte <small>") :]
    copies = copies[: copies.index("<h3")]
    assert f"{page.SHOWN + 4}, {page.SHOWN} of them shown" in copies
    sources = re.findall(r'<img src="([^"]+)"', copies)
    assert len(sources) == 2 * page.SHOWN
    assert sources[::2] == sources[1::2]
    assert all(f">copy {number}.png</code> is {number}.png<" in copies for number in (0, page.SHOWN + 3)), "the ends"


def test_it_asks_for_nothing_and_no_name_becomes_markup(made: str) -> None:
    assert EVIL.replace("/", "-") not in made
    assert "<b>" not in made
    assert set(re.findall(r'(?:src|href)="(data:|#|http|/|\w)', made)) == {"data:", "#"}
    assert "<script" not in made


def test_links_lead_somewhere_and_tags_are_closed(made: str) -> None:
    targets = set(re.findall(r' id="([^"]+)"', made))
    assert set(re.findall(r'href="#([^"]+)"', made)) <= targets
    open_tags: list[str] = []

    class Closing(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in CLOSED:
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Closing().feed(made)
    assert open_tags == []


def test_bars_are_as_long_as_their_shares() -> None:
    rows = page.bars(np.array([1.0, 5.0, 5.0, 20.0]), (2, 10), ["2 px", "10 px"])
    assert rows == [("below 2 px", 1, 50.0), ("2 px", 2, 100.0), ("10 px", 1, 50.0)]
