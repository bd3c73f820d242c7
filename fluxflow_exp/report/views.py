"""Parts that the card of a run and the page of several have in common."""

from collections.abc import Sequence
from typing import Any

from fluxflow_exp.report import facts
from fluxflow_exp.report.facts import Card
from fluxflow_exp.report.hours import LABELS, Hours
from fluxflow_exp.report.html import Html, details, join, table, tag
from fluxflow_exp.report.panels import SECTIONS
from fluxflow_exp.report.text import duration, number

AXIS = (
    "Horizontal: optimizer updates, step after step. The pointer, or the arrow keys on a curve, read all curves there."
)
LINES = 5  # of warnings that are seen at once
Part = tuple[str, str, Html | None]


def curves(found: list[dict[str, Any]]) -> list[Part]:
    """A part of the page for each section that has panels; `charts.js` draws in its figures."""
    parts: list[Part] = []
    for name in SECTIONS:
        mine = [(index, panel) for index, panel in enumerate(found) if panel["section"] == name]
        if mine:
            figures = [_figure(index, panel) for index, panel in mine]
            axis = tag("p", AXIS, class_="note") if not parts else None
            part = join([axis, tag("div", *figures, class_="panels")])
            parts.append((name.split(",")[0].lower().replace(" ", "-"), name, part))
    return parts


def _figure(index: int, panel: dict[str, Any]) -> Html:
    unit = tag("span", f" {panel['unit']}", class_="unit") if panel["unit"] else None
    lines = panel["series"]
    said = f"last {number(_last(lines[0]['y']))}" if len(lines) == 1 else ""
    return tag(
        "figure",
        tag("figcaption", tag("strong", panel["title"]), unit, tag("span", said, class_="readout")),
        tag("div", class_="chart", data_panel=index),
        class_="panel",
    )


def _last(values: list[float | None]) -> float | None:
    return next((value for value in reversed(values) if value is not None), None)


def pictures(gallery: dict[str, Any] | None) -> Html | None:
    """The place where `gallery.js` shows pictures, and the slider that moves through them."""
    if gallery is None:
        return None
    keys = gallery["keys"]
    left_out = gallery["all"] - len(keys)
    note = f"{len(keys)} of {gallery['all']} moments are in this file; samples/ holds them all." if left_out else None
    slider = tag(
        "input",
        type="range",
        id="moment",
        min=0,
        max=len(keys) - 1,
        value=len(keys) - 1,
        step=1,
        aria_label="Moment of the run",
    )
    return tag(
        "div",
        tag(
            "div",
            tag("button", "Play", type="button", id="play", aria_pressed="false"),
            slider,
            tag("output", "", id="when", for_="moment", aria_live="polite"),
            class_="controls",
        ),
        tag("div", id="frames"),
        tag("p", note, class_="note") if note else None,
    )


def problems(cards: Sequence[tuple[str | None, Card]]) -> Html | None:
    """Warnings and what stopped a run, in one box; `cards`: with the name of the run where there are several."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, card in cards:
        for where, text in _problems(card, brief=name is not None):
            found.setdefault((where, text), []).append(name or "")
    if not found:
        return None
    lines = [
        tag("li", tag("strong", f"{where}. "), text, _members(names, len(cards)))
        for (where, text), names in found.items()
    ]
    more = details(f"{len(lines) - LINES} more", tag("ul", *lines[LINES:])) if len(lines) > LINES else None
    title = f"{len(lines)} warning{'s' if len(lines) > 1 else ''}"
    return tag("aside", tag("h2", title), tag("ul", *lines[:LINES]), more, class_="warnings", aria_label="Warnings")


def _members(names: list[str], count: int) -> str | None:
    """Which of `count` runs a line is about; None where there is one run alone."""
    if not all(names):
        return None
    return f" (all {count} runs)" if len(names) == count else f" (in: {'; '.join(names)})"


def _problems(card: Card, *, brief: bool) -> list[tuple[str, str]]:
    """Where and what; `brief`: without the updates, in which runs differ."""
    lines = []
    if card.non_finite:
        found = card.non_finite
        when = "" if brief else f", update {found['update']}"
        lines.append((f"Not finite (step {found['step']}{when})", str(found["message"])))
    for each in facts.warnings(card):
        again = f", {each['times']} times until update {each['last']}" if each["times"] > 1 else ""
        when = "" if brief else f", update {each['first']}{again}"
        lines.append((f"{each['code']} (step {each['step']}{when})", each["text"]))
    return lines


def balance_bar(cost: Hours) -> Html:
    """Where hours went: a bar, and the same as a table."""
    total = sum(cost.parts.values()) or 1.0
    used = {purpose: value for purpose, value in cost.parts.items() if value > 0}
    bar = [
        tag("span", class_=f"part {purpose}", style=f"flex-grow:{value / total:.5f}", title=LABELS[purpose])
        for purpose, value in used.items()
    ]
    rows = [
        (
            join([tag("span", class_=f"key {purpose}", aria_hidden="true"), LABELS[purpose]]),
            duration(3600 * value),
            f"{100 * value / total:.1f} %",
        )
        for purpose, value in cost.parts.items()
        if value > 0 or purpose in ("lost", "compile")
    ]
    said = "; ".join(f"{LABELS[purpose]} {100 * value / total:.0f} %" for purpose, value in used.items())
    return join(
        [
            tag("div", *bar, class_="bar", role="img", aria_label=said),
            table(
                "What the time went into" if cost.unit == "hours" else f"What the {cost.unit} went into",
                ("", "Time", "Share"),
                rows,
                numbers=(1, 2),
                class_="narrow",
            ),
        ]
    )
