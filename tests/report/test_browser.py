"""Cards in a real browser: no error, no request, no sideways scrolling, everything by keyboard, light and dark."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp.report import command as report
from fluxflow_exp.run.metric_log import MetricLog
from tests.helpers.browser import SIZES, Watched, check_reached, is_dark, launched
from tests.helpers.carded import make_carded


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from launched()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("cards")
    runs = [
        make_carded(root, "a", "model.activation=bezier"),
        make_carded(root, "b", "model.activation=silu", offset=1.0),
    ]
    return {"card": report.write_card(runs[0]), "comparison": report.write_comparison(runs)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["card", "comparison"])
def test_a_page_is_quiet_alone_and_fits(
    browser: Any, pages: dict[str, Path], kind: str, size: str, scheme: str
) -> None:
    watched = Watched(browser, pages[kind], size=size, scheme=scheme)
    page = watched.page
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    assert page.locator(".chart svg path.line").count() >= 10
    charts = "[...document.querySelectorAll('.chart > svg')].map((chart) => chart.querySelectorAll('.grid').length)"
    assert min(page.evaluate(charts)) >= 3, "ticks"
    assert page.locator(".chart svg circle.best").count() == (kind == "card")
    assert page.locator("#frames img").count() >= 2
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0 && image.alt)")
    assert is_dark(page) == (scheme == "dark")
    watched.check(pages[kind])
    page.close()


def test_on_a_phone_metrics_are_a_line_each_and_keep_their_names_in_sight(browser: Any, pages: dict[str, Path]) -> None:
    page = Watched(browser, pages["card"], size="narrow").page
    cells = "[...document.querySelectorAll('#metrics tbody tr')].map((row) => row.getBoundingClientRect().height)"
    assert max(page.evaluate(cells)) < 36  # px; of two lines 50
    page.evaluate("document.querySelector('#metrics .scroll').scrollLeft = 150")
    left = "document.querySelector({}).getBoundingClientRect().left"
    assert page.evaluate(left.format("'#metrics tbody th'")) == page.evaluate(left.format("'#metrics .scroll'"))
    gap = "document.querySelector('header .tiles + .note').getBoundingClientRect().top - "
    assert page.evaluate(f"{gap}document.querySelector('.tiles').getBoundingClientRect().bottom") >= 8
    page.close()


def test_the_slider_is_reached_and_moved_by_keys(browser: Any, pages: dict[str, Path]) -> None:
    watched = Watched(browser, pages["card"])
    page = watched.page
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "moment":
            break
    assert page.evaluate("document.activeElement.id") == "moment"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert page.locator("#when").inner_text() == "flow, update 32 (epoch 3)"
    before = page.locator("#frames img").first.get_attribute("src")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#when").inner_text() == "flow, update 24 (epoch 2)"
    assert page.locator("#frames img").first.get_attribute("src") != before
    page.keyboard.press("Home")
    assert page.locator("#when").inner_text() == "vae, update 8 (epoch 1)"
    assert page.locator("#frames .strip").count() == 2
    watched.check(pages["card"])
    page.close()


def test_all_that_acts_is_reached_by_tab(browser: Any, pages: dict[str, Path]) -> None:
    page = Watched(browser, pages["card"]).page
    check_reached(page)
    page.close()


def test_curves_tell_their_values_by_keys_and_pointer(browser: Any, pages: dict[str, Path]) -> None:
    page = Watched(browser, pages["card"]).page
    chart = page.locator("figure.panel", has_text="PSNR")
    assert "PSNR, dB: averaged weights from 17 to 23" in chart.locator("svg[tabindex]").get_attribute("aria-label")
    chart.locator("svg[tabindex]").focus()
    page.keyboard.press("Home")
    assert chart.locator(".readout").inner_text() == "update 8"
    assert chart.locator(".tip li").all_inner_texts() == ["17  averaged weights", "16  raw weights"]
    page.keyboard.press("ArrowRight")
    assert chart.locator(".readout").inner_text() == "update 16"
    rate = page.locator("figure.panel", has_text="Learning rate").locator("svg[tabindex]")
    ticks = rate.locator("text").all_text_contents()[:4]
    assert ticks == ["2.5e-4", "5.0e-4", "7.5e-4", "1.0e-3"], "one notation for all, and none rounded"
    page.locator("figure.panel", has_text="KL").locator("svg").hover()
    assert page.locator("figure.panel", has_text="KL").locator(".readout").inner_text().endswith(": 30")
    page.close()


def test_updates_are_counted_in_whole_ones(browser: Any, tmp_path: Path) -> None:
    run = make_carded(tmp_path)
    for update in (4, 8):
        MetricLog(run.metrics("flow")).write("train", update=update, epoch=1, batch=update, metrics={"repa": 0.5})
    page = Watched(browser, report.write_card(run)).page
    told = page.locator("figure.panel", has_text="Alignment with the teacher").locator("text").all_text_contents()
    assert [each for each in told if each.startswith("4")] == ["40", "45"]
    page.close()


def test_runs_stand_side_by_side_at_one_moment(browser: Any, pages: dict[str, Path]) -> None:
    page = Watched(browser, pages["comparison"]).page
    assert page.locator("#frames h3").all_inner_texts() == ["bezier", "silu"]
    assert page.locator("#runs-legend li").all_inner_texts() == ["bezier", "silu"]
    lefts = page.evaluate("[...document.querySelectorAll('#frames > div')].map((e) => e.getBoundingClientRect().left)")
    assert lefts[0] < lefts[1]
    page.get_by_role("button", name="Play").click()
    assert page.locator("#when").inner_text() == "vae, update 8 (epoch 1)"
    page.get_by_role("button", name="Pause").click()
    page.close()


def test_there_is_something_to_read_without_scripts(browser: Any, pages: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["card"].as_uri())
    assert page.get_by_text("Pictures and curves need JavaScript").is_visible()  # what a script takes away
    assert page.get_by_role("table").count() >= 5
    context.close()
