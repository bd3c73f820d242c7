"""One page for several runs: what they differ in, their curves in one picture, their pictures at equal updates."""

from collections.abc import Sequence
from typing import Any

from fluxflow_exp.monitor.metrics import named
from fluxflow_exp.report import facts, gallery, page, panels
from fluxflow_exp.report.facts import Card
from fluxflow_exp.report.text import shown
from fluxflow_exp.run.identity import ABSENT, below

# Names, places and watching: what makes no run another one.
ASIDE = (
    "name", "output_root", "resume", "validate", "tracking", "checkpoint", "publish", "samples", "log_every",
    "cache.path",
)  # fmt: skip
KEYS = 3  # that name a run; with more differing keys its folder does
SHOWN = 12  # runs whose pictures are in the page
TILES = 4


def write(cards: Sequence[Card], compared: dict[str, Any] | None) -> str:
    """Return the whole file; `compared`: the comparison.json of fluxflow_exp.compare over such runs."""
    keys, following = differing(cards)
    runs = dict(zip(labels(cards, keys), cards, strict=True))
    tracks = {name: card.track for name, card in runs.items()}
    curves = panels.overlaid(tracks)
    order = list(dict.fromkeys(step for card in cards for step in card.steps))
    pictured = gallery.gallery({name: runs[name].frames for name in list(runs)[:SHOWN]}, order, tiles=TILES)
    last = {name: facts.last(card) for name, card in runs.items()}
    metrics = list(dict.fromkeys(metric for each in last.values() for metric in each))
    return page.write(
        "comparison.html",
        title=f"{len(cards)} runs compared",
        cards=runs,
        parts={
            **({"comparison": "At equal budget"} if compared else {}),
            "runs": "Runs",
            **({"pictures": "Pictures at equal updates"} if pictured else {}),
            **page.sections(curves),
        },
        stages=list(dict.fromkeys(str(card.values["stage"]["name"]) for card in cards)),
        pictured=SHOWN,
        problems=page.problems(runs, several=True),
        curves={"panels": curves, "marks": _marks(tracks), "runs": _looks(cards, keys, list(runs))},
        gallery=pictured,
        compared=compared,
        keys=keys,
        following=following,
        absent=ABSENT,
        last=last,
        metrics=metrics,
        titles=[named(metric).title for metric in metrics],
    )


def differing(cards: Sequence[Card]) -> tuple[list[str], dict[str, list[str]]]:
    """Keys that have several values, and for each those of the same last name and values, which follow it.

    Of a step that some runs do not have, its description stands for all that the others agree in.
    """
    every = dict.fromkeys(key for card in cards for key in card.flat)
    values = {key: [shown(card.flat.get(key, ABSENT)) for card in cards] for key in every if not below(key, ASIDE)}
    varying = [key for key, each in values.items() if len(set(each)) > 1 and _says_more(key, each, cards)]
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


def _says_more(key: str, values: list[str], cards: Sequence[Card]) -> bool:
    """Whether a key tells more than that its step is not in all runs."""
    place = key.split(".")
    if place[:2] != ["stage", "steps"] or all(place[2] in card.steps for card in cards):
        return True
    there = {value for value, card in zip(values, cards, strict=True) if place[2] in card.steps}
    return len(there) > 1 or place[3:] == ["description"]


def _follows(key: str, source: str, values: dict[str, list[str]]) -> bool:
    return key.rpartition(".")[2] == source.rpartition(".")[2] and values[key] == values[source]


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
    """The updates at which steps begin in all runs."""
    each = [panels.marks(track) for track in tracks.values()]
    return [mark for mark in each[0] if all(mark in other for other in each[1:])]
