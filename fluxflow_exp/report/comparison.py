"""One page for several runs: what they differ in, their curves in one picture, their pictures at equal updates."""

from collections.abc import Sequence
from typing import Any

from fluxflow_exp.monitor.metrics import named
from fluxflow_exp.report import facts, gallery, html, panels
from fluxflow_exp.report.config_diff import ABSENT
from fluxflow_exp.report.facts import Card
from fluxflow_exp.report.html import Html, join, section, table, tag
from fluxflow_exp.report.page import footer
from fluxflow_exp.report.text import UNKNOWN, count, duration, hours, number, shown
from fluxflow_exp.report.views import curves, pictures, problems

# Names, places and watching: what makes no run another one.
ASIDE = (
    "name", "output_root", "resume", "validate", "tracking", "checkpoint", "publish", "samples", "log_every",
    "cache.path",
)  # fmt: skip
KEYS = 3  # that name a run; with more differing keys its folder does
SHOWN = 12  # runs whose pictures are in the page
TILES = 4


def write(cards: Sequence[Card], compared: dict[str, Any] | None) -> str:
    """The whole file; `compared`: the comparison.json of fluxflow_exp.compare over such runs."""
    keys, following = differing(cards)
    names = labels(cards, keys)
    tracks = {name: card.track for name, card in zip(names, cards, strict=True)}
    found = panels.overlaid(tracks)
    order = list(dict.fromkeys(step for card in cards for step in card.steps))
    pictured = gallery.gallery(
        {name: card.frames for name, card in list(zip(names, cards, strict=True))[:SHOWN]}, order, tiles=TILES
    )
    looks = _looks(cards, keys, names)
    parts = [
        ("comparison", "At equal budget", _compared(compared)),
        ("runs", "Runs", _runs(cards, names, keys, following)),
        ("pictures", "Pictures at equal updates", pictures(pictured)),
        *curves(found),
    ]
    shown_parts = [part for part in parts if part[2] is not None]
    left_out = f" Pictures are those of the first {SHOWN} runs." if len(cards) > SHOWN else ""
    body = join(
        [
            tag(
                "header",
                tag("p", "Comparison", class_="kind"),
                tag("h1", f"{len(cards)} runs", _of(cards)),
                tag("p", f"Lines of one colour differ in the seed alone.{left_out}", class_="lead"),
            ),
            tag("nav", *(tag("a", title, href=f"#{name}") for name, title, _ in shown_parts), aria_label="Parts"),
            problems(list(zip(names, cards, strict=True))),
            tag("main", *(section(*part) for part in shown_parts)),
            footer(),
            html.data("curves", {"panels": found, "marks": _marks(tracks), "runs": looks}),
            html.data("gallery", pictured),
        ]
    )
    return html.page(f"{len(cards)} runs compared", body)


def differing(cards: Sequence[Card]) -> tuple[list[str], dict[str, list[str]]]:
    """Keys that have several values, and for each those of the same last name and values, which follow it."""
    every = dict.fromkeys(key for card in cards for key in card.flat)
    values = {key: [shown(card.flat.get(key, ABSENT)) for card in cards] for key in every if not _aside(key)}
    varying = [key for key, each in values.items() if len(set(each)) > 1]
    leading: list[str] = []
    following: dict[str, list[str]] = {}
    for key in sorted(varying, key=lambda key: (key == "seed", key.count("."))):
        source = next((each for each in leading if _follows(key, each, values)), None)
        if source:
            following.setdefault(source, []).append(key)
        else:
            leading.append(key)
    return leading, following


def labels(cards: Sequence[Card], keys: Sequence[str]) -> list[str]:
    """A short name for each run: its values of the differing keys, or its folder where these are many or not enough."""

    def words(card: Card) -> str:
        values = [(key.rpartition(".")[2], card.flat.get(key, ABSENT)) for key in keys]
        return ", ".join(value if isinstance(value, str) else f"{name} {shown(value)}" for name, value in values)

    for found in ([words(card) for card in cards] if 0 < len(keys) <= KEYS else [], [card.name for card in cards]):
        if len(set(found)) == len(cards):
            return found
    return [str(card.folder.path) for card in cards]


def _aside(key: str) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in ASIDE)


def _follows(key: str, source: str, values: dict[str, list[str]]) -> bool:
    return key.rpartition(".")[2] == source.rpartition(".")[2] and values[key] == values[source]


def _of(cards: Sequence[Card]) -> str:
    stages = list(dict.fromkeys(str(card.values["stage"]["name"]) for card in cards))
    return f" of stage {stages[0]}" if len(stages) == 1 else f" of stages {', '.join(stages)}"


def _looks(cards: Sequence[Card], keys: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """A colour for each set of values but the seed, in their order, and a dash pattern for each seed of one."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for card, name in zip(cards, names, strict=True):
        values = tuple(shown(card.flat.get(key, ABSENT)) for key in keys if key != "seed")
        groups.setdefault(values, []).append(name)
    ordered = [groups[values] for values in sorted(groups)]
    colours = {name: (colour, dash) for colour, each in enumerate(ordered) for dash, name in enumerate(each)}
    return [{"name": name, "color": colours[name][0], "dash": colours[name][1]} for name in names]


def _marks(tracks: dict[str, panels.Track]) -> list[dict[str, Any]]:
    """Where steps begin, where they do so in all runs."""
    each = [panels.marks(track) for track in tracks.values()]
    return [mark for mark in each[0] if all(mark in other for other in each[1:])]


def _runs(cards: Sequence[Card], names: Sequence[str], keys: Sequence[str], following: dict[str, list[str]]) -> Html:
    metrics = list(
        dict.fromkeys(
            each["metric"] for card in cards for each in facts.results(card) if each["implementation"] == facts.OURS
        )
    )
    metrics = [name for name in metrics if not name.startswith("prompt_accuracy_")]
    head = ["Run", "State", *(tag("code", key) for key in keys), *(named(m).title for m in metrics)]
    rows = []
    for card, name in zip(cards, names, strict=True):
        last = {each["metric"]: each["value"] for each in facts.results(card) if each["implementation"] == facts.OURS}
        rows.append(
            (
                name,
                tag("span", card.state.state, class_=f"mark {card.state.state}"),
                *(shown(card.flat.get(key, ABSENT)) for key in keys),
                *(number(last.get(metric)) for metric in metrics),
                count(card.track.updates),
                str(card.record["restarts"]),
                duration(card.record["wall_seconds"]),
                hours(card.costs.hours) if card.costs.unit != "hours" else UNKNOWN,
            )
        )
    first = 2 + len(keys)
    notes = [f"{', '.join(others)} follow {key}" for key, others in following.items()]
    return join(
        [
            tag("ul", id="runs-legend", class_="legend", aria_label="Lines of the curves"),
            table(
                "What the runs differ in, and what they came to",
                [*head, "Updates", "Restarts", "Run time", "GPU hours"],
                rows,
                numbers=range(first, first + len(metrics) + 4),
            ),
            *(tag("p", note, ".", class_="note") for note in notes),
        ]
    )


def _compared(found: dict[str, Any] | None) -> Html | None:
    """The sentences and the table that fluxflow_exp.compare has left."""
    if found is None:
        return None
    budget = found["budget"]
    rows = [
        (each["name"], str(len(each["runs"])), number(each["mean"]), number(each["half_width"]), number(each["std"]))
        for each in found["groups"]
    ]
    caption = (
        f"{found['metric']} at {number(budget['at'])} {budget['unit']}, by {found['by']} ({found['better']} is better)"
    )
    return join(
        [
            *(tag("p", tag("strong", pair["sentence"], ".")) for pair in found["pairs"]),
            table(caption, ("Group", "Seeds", "Mean", "± 95 %", "Std"), rows, numbers=(1, 2, 3, 4), class_="narrow"),
            *(tag("p", f"Note: {note}.", class_="note") for note in found["notes"]),
        ]
    )
