"""The error shown to the user without a traceback, and words that such texts are made of."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(ValueError):
    """Something that the user can put right, or several (`args`); shown without a traceback, exit code 2."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class ToldElsewhere(UserError):
    """One that another rank of the run tells: this one ends without a word."""


def counted(count: int, what: str) -> str:
    """`1 picture`, `2 pictures`."""
    return f"{count:,} {plural(count, what)}"


def plural(count: int, what: str) -> str:
    """`picture` of one, `pictures` of another number."""
    return what if count == 1 else f"{what}s"


def few(names: Sequence[str], most: int, *, joint: str = ", ") -> str:
    """`a, b and 3 more`: the first `most` of them, and how many are left out."""
    more = len(names) - most
    return joint.join(names[:most]) + (f" and {more} more" if more > 0 else "")


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return "; did you mean …?" with the allowed name nearest to `name`, or "" where none is near."""
    near = difflib.get_close_matches(name, list(allowed), 1, 0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def suggest_key(key: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" with the known key nearest to `key` (a neighbour or one of that name), or ""."""
    known = list(known)
    parent, _, leaf = key.rpartition(".")
    siblings = [k for k in known if k.rpartition(".")[0] == parent]
    by_leaf = {k.rpartition(".")[2]: k for k in reversed(known)}
    namesakes = [k for k in known if k.rpartition(".")[2] == leaf]
    near = difflib.get_close_matches(key, namesakes, 1, 0.0) or difflib.get_close_matches(key, siblings, 1, 0.6)
    if not near:
        near = [by_leaf[n] for n in difflib.get_close_matches(leaf, by_leaf, 1, 0.7)]
    near = near or difflib.get_close_matches(key, known, 1, 0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
