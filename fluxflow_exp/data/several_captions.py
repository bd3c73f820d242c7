"""Entries of pictures that have several captions."""

from collections.abc import Iterable
from typing import Any

from fluxflow_exp.data.caption_choice import heaviest
from fluxflow_exp.data.decoding import reason
from fluxflow_exp.data.images import Entry
from fluxflow_exp.data.protocols import Bad
from fluxflow_exp.data.tar import Keys


def entry_of(name: str, captions: Iterable[tuple[str, float]], place: Any) -> Entry:
    """An entry of one caption or several; those that are the same weigh together."""
    weights: dict[str, float] = {}
    for caption, weight in captions:
        weights[caption] = weights.get(caption, 0.0) + weight
    choices = tuple(weights.items())
    return Entry(name, heaviest(choices), place, choices=choices if len(choices) > 1 else ())


def of_shard(shard: str, found: dict[str, dict[str, Any]], keys: Keys, read: Any, bad: Bad) -> list[Entry]:
    """The entries of a shard's samples (key → extension → place), as `read` gives their captions; others are `bad`."""
    entries = []
    for key, members in found.items():
        name = f"{shard}/{key}"
        try:
            image = keys.image_of(members)
            entries.append(entry_of(name, keys.captions_of(members, read), image))
        except ValueError as error:
            bad.append((name, str(error)))
        except OSError as error:
            bad.append((name, reason(error)))
    return entries


def joined(found: list[tuple[Entry, float]]) -> list[Entry]:
    """Entries of one caption each, with its weight: those of one picture become one, in the place of the first.

    Entries that say the same of a picture stay apart: such a picture has one caption, and is seen as often as it is
    named.
    """
    captions: dict[str, list[tuple[str, float]]] = {}
    groups: dict[str, str] = {}  # of a picture, in whichever of its rows it stands
    for entry, weight in found:
        captions.setdefault(entry.id, []).append((entry.caption, weight))
        if entry.group is not None:
            groups.setdefault(entry.id, entry.group)
    whole = {name: entry_of(name, each, name) for name, each in captions.items()}
    made: list[Entry] = []
    done: set[str] = set()
    for entry, _ in found:
        several = whole[entry.id]
        if not several.choices:
            made.append(entry)
        elif entry.id not in done:
            made.append(several._replace(place=entry.place, group=groups.get(entry.id)))
            done.add(entry.id)
    return made


def single(entries: list[Entry]) -> list[Entry]:
    """The same entries with their heaviest caption alone."""
    return [entry._replace(choices=()) if entry.choices else entry for entry in entries]


def notes(entries: list[Entry]) -> list[str]:
    """Return a line about the pictures that have several captions, if there are some."""
    counts = [len(entry.choices) for entry in entries if entry.choices]
    if not counts:
        return []
    return [
        f"{len(counts):,} of {len(entries):,} pictures have several captions, {sum(counts) / len(counts):.1f} on "
        "average: one is chosen by weight each time, of held-out pictures the heaviest stands"
    ]
