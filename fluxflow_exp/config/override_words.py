"""Overrides as text: what Hydra would take for something else is quoted, and its reasons are put in a line."""

import dataclasses
import re
import shlex
import typing
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from fluxflow_exp.config.schema import RunConfig
from fluxflow_exp.config.shell_words import in_quotes

PLAIN = re.compile(r"(\+{0,2})([A-Za-z_][\w.]*)=([^\s'\"\[\]{}(),$]+)")
LOCATION = ("full_key:", "object_type=", "reference_type=", "See https://hydra.cc", "Config search path:", "provider=")


def as_text(overrides: list[str]) -> list[str]:
    """`overrides` with each value quoted that its key takes as a text and Hydra for a number, a truth or nothing.

    So `name=1e3` names the folder 1e3, `name=007` 007 and `name=null` null.
    """
    return [_quoted(text) for text in overrides]


def _quoted(text: str) -> str:
    match = PLAIN.fullmatch(text)
    if not match:
        return text
    plus, key, value = match.groups()
    hint = field_hint(key)
    if hint not in (str, str | None):
        return text
    try:
        read = OverridesParser.create().parse_override(text).value()
    except HydraException:
        return text
    if isinstance(read, str) or (read is None and hint is not str):
        return text
    return f"{plus}{key}='{value}'"


def field_hint(key: str) -> Any:
    """The type of the frame's field `key`; None: the frame has no such field."""
    hint: Any = RunConfig
    for name in key.split("."):
        if typing.get_origin(hint) is dict:
            hint = typing.get_args(hint)[1]
            continue
        kinds = [each for each in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(each)]
        fields = typing.get_type_hints(kinds[0]) if kinds else {}
        if name not in fields:
            return None
        hint = fields[name]
    return hint


def is_field(key: str) -> bool:
    """Whether the frame declares `key`, so that it stands in every configuration."""
    parent = key.rpartition(".")[0]
    return typing.get_origin(field_hint(parent) if parent else RunConfig) is not dict and field_hint(key) is not None


def why(error: Exception) -> str:
    """The reason that Hydra or OmegaConf gives, in one line without places in its own code."""
    cause = error.__cause__
    if cause is not None and str(error).startswith("Error merging override"):
        error = cause if isinstance(cause, Exception) else error
    lines = [" ".join(line.split()) for line in str(error).splitlines()]
    kept = [
        line
        for line in lines
        if line and not line.startswith(LOCATION) and line != "^" and not line.startswith("Error parsing override")
    ]
    said = " ".join(kept) or type(error).__name__
    there = re.search(r"An item is already at '([^']+)'", said)
    if there:
        return f"{there[1]} is in this configuration already: write it without the +"
    return re.sub(r"field '(\S+)' is not Optional", r"\1 cannot be null", said)


def quoting(text: str) -> str:
    """Say how a text with brackets, commas or the like is written, if `text` looks like one that was not."""
    key, equals, value = text.partition("=")
    if not equals or not re.search(r"[\s(){}\[\],:'\"]", value):
        return ""
    if value.count("[") > value.count("]") or value.count("{") > value.count("}"):
        return f". The shell cuts words at spaces: put the whole of it in quotes, {shlex.quote(f'{text} …')}"
    if value.startswith("[") and value.endswith("]"):
        items = ",".join(in_quotes(_bare(each.strip())) for each in re.split(r",(?![^(]*\))", value[1:-1]))
        return f". Texts with brackets or commas take quotes within quotes: {shlex.quote(f'{key}=[{items}]')}"
    text = shlex.quote(f"{key}={in_quotes(_bare(value))}")
    return f". A text with brackets or commas takes quotes within quotes: {text}"


def _bare(text: str) -> str:
    """`text` without quotes around it, or the one that is not closed."""
    inner = text.strip("\"'")
    return text if re.search("[\"']", inner) else inner


def keys(config: DictConfig) -> list[str]:
    """All keys of `config`, those of branches too, as they are written: ["model", "model.name", …]."""
    found: list[str] = []

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for name, child in node.items():
                where = f"{path}.{name}" if path else str(name)
                found.append(where)
                walk(child, where)

    walk(OmegaConf.to_container(config, resolve=False), "")
    return found


def two_lengths(parsed: list[Override]) -> list[str]:
    """A line for each step that was given both minutes and epochs, of which the file's own would be passed over."""
    last = {override.key_or_group: override for override in parsed}  # of repeated words the last one holds
    given = {key: override.input_line for key, override in last.items() if override.value() is not None}
    return [
        f"{line} and {given[other]} both say when the step ends: give one of them"
        for key, line in given.items()
        for other in [f"{key.removesuffix('.minutes')}.n_epochs"]
        if key.startswith("stage.steps.") and key.endswith(".minutes") and other in given
    ]


def command(*words: str) -> str:
    """The training command with `words`, as it is typed."""
    return shlex.join(["python", "-m", "fluxflow_exp", *words])


def sweep_without_m(override: Override, overrides: list[str]) -> str:
    text = override.input_line or ""
    key, _, values = text.partition("=")
    return (
        f"{text} names several values, and here stands one (a list is written {shlex.quote(f'{key}=[{values}]')}). "
        f"A run for each takes -m:\n  {command('-m', *overrides)}"
    )


def swept_launcher(override: Override) -> str:
    text = override.input_line or ""
    key, _, value = text.partition("=")
    way_out = f"A value with a comma in it is quoted twice: {shlex.quote(f'{key}={in_quotes(value)}')}"
    return f"{text}: the launcher's settings cannot be swept. {way_out}"
