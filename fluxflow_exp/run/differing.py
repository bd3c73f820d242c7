"""What tells a run from the one that has its name: what was given first, and of what follows an example."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from fluxflow_exp.config.shell_words import typed
from fluxflow_exp.errors import counted
from fluxflow_exp.run.identity import ABSENT, IDENTITY, below

FEW = 4  # words that a message names; a run that differs in more was not meant
MOST = 8  # lines for keys that nobody gave

Pairs = dict[str, tuple[Any, Any]]  # key → (value there, value asked)


def given() -> list[str]:
    """The overrides of this command line."""
    return [word for word in sys.argv[1:] if word[:1] == "~" or (word[:1] != "-" and "=" in word)]


@dataclass
class Differing:
    """Keys in which two configurations differ, by what they come from."""

    groups: Pairs = field(default_factory=dict)  # config group → files chosen of it
    named: Pairs = field(default_factory=dict)  # keys that were given
    other: Pairs = field(default_factory=dict)  # keys that follow from none of these
    follow: list[str] = field(default_factory=list)  # keys that do

    @classmethod
    def of(cls, differing: Pairs, values: dict[str, Any], frozen: dict[str, Any], words: Iterable[str]) -> Differing:
        """Sort the keys in which `values` and `frozen` differ; `words`: the overrides of both, as far as known."""
        keys = {word.lstrip("+~").partition("=")[0].rpartition("@")[2] for word in words}
        found = cls(_groups(differing, values.get("choices") or {}, frozen.get("choices") or {}, keys))
        places, leads = [group.replace("/", ".") for group in found.groups], leading(differing)
        for key, pair in differing.items():
            if key in keys or below(key, [each for each in keys if "." in each]):
                found.named[key] = pair
            elif key not in leads or below(key, places):
                found.follow.append(key)
            else:
                found.other[key] = pair
        return found

    def first(self) -> Pairs:
        """All that follows from nothing else, what was given first."""
        return {**self.groups, **self.named, **self.other}

    def tell(self) -> str:
        """A line for each; one for a step that only one of both has."""
        lines = _lines({**self.groups, **self.named})
        other = _lines(self.other)
        lines += other[:MOST] + ([f"    and {len(other) - MOST} more"] if len(other) > MOST else [])
        if self.follow:
            one = len(self.follow) == 1
            more = f"{counted(len(self.follow), 'key')} that follow{'s' if one else ''}"
            lines.append(f"    and {more}{':' if one else ', e.g.'} {self.follow[0]}")
        return "\n".join(lines)

    def words_back(self) -> list[str]:
        """Overrides that ask for what is there, for a shell; none if they are many."""
        keys = {**self.named, **self.other}
        keys = {key: pair for key, pair in keys.items() if key in leading(keys)}
        if len(self.groups) + len(keys) > FEW:
            return []
        words = [typed(group, theirs) for group, (theirs, _) in self.groups.items()]
        for key, (theirs, mine) in keys.items():
            add = "+" if mine == ABSENT else ""
            words.append(shlex.quote(f"~{key}") if theirs == ABSENT else typed(f"{add}{key}", theirs))
        return words


def leading(differing: Pairs) -> Pairs:
    """Of keys with one last name and the same values those in the fewest sections, which others read: one, or several
    side by side, as of two steps."""
    sections: dict[tuple[str, str], int] = {}
    for key in sorted(differing, key=lambda key: key.count(".")):
        sections.setdefault(_alike(key, differing), key.count("."))
    return {key: pair for key, pair in differing.items() if sections[_alike(key, differing)] == key.count(".")}


def _alike(key: str, differing: Pairs) -> tuple[str, str]:
    return key.rpartition(".")[2], repr(differing[key])


def _groups(differing: Pairs, mine: dict[str, str], theirs: dict[str, str], given: Collection[str]) -> Pairs:
    """Groups of which another file was chosen that differs; one that a chosen file chooses follows it."""
    found = {
        group: (theirs[group], mine[group])
        for group in sorted({*mine} & {*theirs})
        if mine[group] != theirs[group]
        and group.partition("/")[0] in IDENTITY
        and any(below(key, [group.replace("/", ".")]) for key in differing)
    }
    return {group: pair for group, pair in found.items() if group in given or group.rpartition("/")[0] not in found}


def _lines(differing: Pairs) -> list[str]:
    lines: dict[str, None] = {}
    for key, (theirs, mine) in differing.items():
        step = re.match(r"stage\.steps\.[^.]+", key)
        before, now = differing.get(f"{step[0]}.n_epochs", (0, 0)) if step else (0, 0)  # every step has one
        if step and ABSENT in (before, now):
            lines[f"    {step[0]}: {'asked' if before == ABSENT else 'there'} alone"] = None
        else:
            lines[f"    {key}: {_shown(theirs)} there, {_shown(mine)} asked"] = None
    return list(lines)


def _shown(value: Any) -> str:
    return ABSENT if value == ABSENT else "null" if value is None else repr(value)
