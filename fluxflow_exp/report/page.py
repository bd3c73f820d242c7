"""The frame of a page, and the facts that the card of a run and the page of several have in common.

How a page looks is in the templates beside this file (Jinja2): card.html, comparison.html and study.html fill the
frame, page.html.
Nothing in a run's text can become markup or a script: every value is escaped, data for scripts is JSON.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateRuntimeError
from markupsafe import Markup

from fluxflow_exp.report import facts, text
from fluxflow_exp.report.facts import Card
from fluxflow_exp.report.panels import SECTIONS

FOLDER = Path(__file__).parent
FILTERS = (
    text.number, text.quantity, text.reading, text.count, text.hours, text.duration, text.moment, text.shown, text.code,
    text.digest,
)  # fmt: skip


def write(template: str, **values: Any) -> str:
    """Return a whole page: the template of that name filled with `values`, with the styles and scripts of this folder.

    LookupError: what a run has left lacks a value that the template asks for.
    """
    style, *scripts = (Markup((FOLDER / name).read_text("utf-8")) for name in ("card.css", "charts.js", "gallery.js"))
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    values |= {"style": style, "script": Markup("\n").join(scripts), "now": now}
    try:
        return _environment().get_template(template).render(values)
    except TemplateRuntimeError as error:
        raise LookupError(str(error)) from error


@cache
def _environment() -> Environment:
    made = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
    made.trim_blocks = made.lstrip_blocks = True
    made.filters |= {each.__name__: each for each in FILTERS}
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return made


def sections(panels: list[dict[str, Any]]) -> dict[str, str]:
    """The parts of a page that show curves: identity → heading, the section of its panels."""
    return {
        name.split(",")[0].lower().replace(" ", "-"): name
        for name in SECTIONS
        if any(panel["section"] == name for panel in panels)
    }


def problems(cards: Mapping[str, Card], *, several: bool) -> list[tuple[str, str, str]]:
    """Warnings and what stopped a run: where, what, and in which of `several` cards, given by the names of the runs."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, card in cards.items():
        for problem in _problems(card, brief=several):
            found.setdefault(problem, []).append(name)

    def members(names: list[str]) -> str:
        if not several:
            return ""
        return f" (all {len(cards)} runs)" if len(names) == len(cards) else f" (in: {'; '.join(names)})"

    return [(*problem, members(names)) for problem, names in found.items()]


def _problems(card: Card, *, brief: bool) -> list[tuple[str, str]]:
    """Place and text of each problem; `brief`: without the updates, in which runs differ."""
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
