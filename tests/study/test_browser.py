"""The page of a study in a real browser: no error, no request, no sideways scrolling, keyboard, light and dark."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp.study import page as study
from tests.helpers.answers import made_answer, pictured
from tests.helpers.browser import SIZES, Watched, check_reached, is_dark, launched
from tests.helpers.carded import HOSTILE


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from launched()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    return study.write(pictured(folder, made_answer(question=HOSTILE, notes=[HOSTILE])), folder)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_page_is_quiet_alone_and_fits(browser: Any, path: Path, size: str, scheme: str) -> None:
    watched = Watched(browser, path, size=size, scheme=scheme)
    page = watched.page
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    assert page.locator("h1").inner_text() == HOSTILE
    assert page.locator(".chart svg path.line").count() == page.locator(".chart svg path.band").count() == 3
    assert page.locator(".side img").count() == 5
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0 && image.alt)")
    assert is_dark(page) == (scheme == "dark")
    watched.check(path)
    page.close()


def test_the_page_works_by_keys(browser: Any, path: Path) -> None:
    page = Watched(browser, path).page
    check_reached(page)
    chart = page.locator("figure.panel")
    chart.locator("svg[tabindex]").focus()
    page.keyboard.press("Home")
    assert chart.locator(".readout").inner_text() == "update 500"
    assert chart.locator(".tip li").all_inner_texts() == ["17  silu", "18  bezier", "19  relu"]
    page.close()


def test_the_forest_has_the_places_of_its_intervals(browser: Any, path: Path) -> None:
    page = Watched(browser, path).page
    plot = page.locator(".forest").first
    labels = [each.get_attribute("aria-label") for each in plot.get_by_role("img").all()]
    assert labels[0] == "bezier: +0.50 dB, 95 % interval 0.20 to 0.80 dB, shown better"
    lefts = [
        plot.locator(what).first.bounding_box()["x"] for what in (".is-worse .whisker", ".zero", ".is-better .whisker")
    ]
    assert lefts == sorted(lefts)
    page.close()


def test_without_scripts_only_curves_are_missing(browser: Any, path: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.get_by_text("Curves need JavaScript").is_visible()
    assert page.locator(".side img").count() == 5
    assert page.get_by_text("bezier is better than silu").is_visible()
    context.close()
