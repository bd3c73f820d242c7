"""HTML put together so that no text of a run can become markup: what is not `Html` is escaped."""

import html
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from string import Template
from typing import Any

VOID = ("br", "input", "img")


class Html(str):
    """Markup; any other string is text."""


def tag(name: str, *children: Any, **attributes: Any) -> Html:
    """An element. `class_` stands for class, `aria_label` for aria-label; True is a bare attribute, None none."""
    given = []
    for key, value in attributes.items():
        word = key.rstrip("_").replace("_", "-")
        if value is True:
            given.append(f" {word}")
        elif value is not None and value is not False:
            given.append(f' {word}="{html.escape(str(value))}"')
    opening = f"<{name}{''.join(given)}>"
    return Html(opening if name in VOID else f"{opening}{join(children)}</{name}>")


def join(children: Iterable[Any]) -> Html:
    """Children one after another; None is nothing."""
    return Html(
        "".join(each if isinstance(each, Html) else html.escape(str(each)) for each in children if each is not None)
    )


def table(
    caption: str, head: Sequence[Any], rows: Iterable[Sequence[Any]], *, numbers: Sequence[int] = (), class_: str = ""
) -> Html:
    """A table that scrolls by itself where it is wider than the page; the first cell of a row is its heading.

    `numbers`: columns that are set to the right.
    """

    def cells(row: Sequence[Any], name: str) -> list[Html]:
        kinds = dict.fromkeys(numbers, "number")
        first = tag("th", row[0], scope="row" if name == "td" else "col")
        return [first, *(tag(name, cell, class_=kinds.get(n), **_scope(name)) for n, cell in enumerate(row[1:], 1))]

    body = [tag("tr", *cells(row, "td")) for row in rows]
    inner = tag(
        "table",
        tag("caption", tag("span", caption)),
        tag("thead", tag("tr", *cells(head, "th"))),
        tag("tbody", *body),
        class_=class_ or None,
    )
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=caption)


def section(identity: str, title: str, *children: Any) -> Html:
    """A part of the page under a heading that can be linked to."""
    return tag("section", tag("h2", title), *children, id=identity)


def details(summary: Any, *children: Any) -> Html:
    return tag("details", tag("summary", summary), *children)


def data(identity: str, value: Any) -> Html:
    """JSON for the page's script. No text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character, escape in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(character, escape)
    return Html(f'<script type="application/json" id="{identity}">{text}</script>')


def page(title: str, body: Html) -> str:
    """The whole file: template, style and script of this folder around `body`."""
    folder = files("fluxflow_exp.report")
    read = {
        name: (folder / name).read_text(encoding="utf-8")
        for name in ("page.html", "card.css", "charts.js", "gallery.js")
    }
    return Template(read["page.html"]).substitute(
        title=html.escape(title),
        style=read["card.css"],
        script=f"{read['charts.js']}\n{read['gallery.js']}",
        body=body,
    )


def _scope(name: str) -> dict[str, str]:
    return {"scope": "col"} if name == "th" else {}
