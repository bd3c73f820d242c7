"""A real browser for pages, and what a page must not do in it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SIZES = {"narrow": (400, 800), "wide": (1200, 900)}


def launched() -> Iterator[Any]:
    """A Chromium until the fixture that yields it ends; where there is none, its tests are skipped."""
    with playwright.sync_playwright() as started:
        path = next(filter(None, map(shutil.which, BROWSERS)), None)  # None: the one that playwright has brought
        try:
            found = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:
            reason = str(error).splitlines()[0]
            pytest.skip(f"no Chromium here ({reason}): playwright install chromium, or apt-get install chromium")
        yield found
        found.close()


class Watched:
    """A page, and all that it must not do."""

    def __init__(self, browser: Any, path: Path, *, size: str = "wide", scheme: str = "light") -> None:
        width, height = SIZES[size]
        self.page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def check(self, path: Path) -> None:
        """Nothing was said on the console, and nothing asked for but the file itself and what it holds."""
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
        assert self.said == []
        assert [url for url in self.asked if not url.startswith("data:")] == [path.as_uri()]


def is_dark(page: Any) -> bool:
    """Whether the page's paper is darker than its ink."""
    paper, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    return brightness(paper) < brightness(ink)


def check_reached(page: Any) -> None:
    """All that acts is reached by Tab."""
    acts = "a, button, input, summary, svg[tabindex], .scroll"
    wanted = page.evaluate(
        f"[...document.querySelectorAll('{acts}')].filter((e) => e.checkVisibility()).map((e, n) => (e.dataset.n = n))"
    )
    met = set()
    for _ in range(len(wanted) + 5):
        page.keyboard.press("Tab")
        met.add(page.evaluate("document.activeElement.dataset.n ?? null"))
    assert {str(number) for number in wanted} <= met


def brightness(colour: str) -> float:
    """Mean of red, green and blue of `rgb(…)`."""
    return sum(float(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3]) / 3
