"""Numbers that a run keeps, once it has begun with them, where a later command leaves them to this program ("auto")."""

from typing import Any

KEYS = ("log_every", "samples.every_epochs", "evaluation.every_epochs")


def kept(values: dict[str, Any], frozen: dict[str, Any]) -> dict[str, Any]:
    """`values` of a configuration with those of `frozen`, that of the run, in the places of "auto"."""
    found = dict(values)
    for key in KEYS:
        section, _, leaf = key.rpartition(".")
        mine, theirs = (each.get(section, {}) if section else each for each in (found, frozen))
        if mine.get(leaf) != "auto" or leaf not in theirs:
            continue
        if section:
            found[section] = {**mine, leaf: theirs[leaf]}
        else:
            found[leaf] = theirs[leaf]
    return found
