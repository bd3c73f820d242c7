"""Overrides written out, so that they can be pasted into a shell: quoted for Hydra where it needs that, then for it."""

import json
import re
import shlex
from typing import Any

# What Hydra reads as this very text; it begins with no sign of a number.
PLAIN = re.compile(r"[A-Za-z_/][\w/.-]*", re.ASCII)
NO_TEXT = ("null", "true", "false", "inf", "nan")


def typed(key: str, value: Any) -> str:
    """The override that gives `key` this value, as a word of a shell."""
    return shlex.quote(f"{key}={written(value)}")


def written(value: Any) -> str:
    """`value`, of numbers, truths, texts, None, and lists and mappings of them, as Hydra reads it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{written(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    return value if PLAIN.fullmatch(value) and value.lower() not in NO_TEXT else in_quotes(value)


def in_quotes(text: str) -> str:
    """`text` as Hydra's quotes hold it: a backslash is itself, but before a quote, where it is doubled."""
    return '"' + re.sub(r'(\\*)("|\Z)', lambda match: 2 * match[1] + ('\\"' if match[2] else ""), text) + '"'
