"""A cleaned captions file: what training cannot use is left out, and copies stay on one side of the held-out split."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from fluxflow_exp import files
from fluxflow_exp.data.caption_choice import WEIGHT
from fluxflow_exp.data.captions import surrogate_in
from fluxflow_exp.data.check.survey import Survey
from fluxflow_exp.data.images import Entry
from fluxflow_exp.data.metadata_file import GROUP, NAME
from fluxflow_exp.data.protocols import Choices
from fluxflow_exp.errors import UserError
from fluxflow_exp.run import failures

SUFFIX = ".jsonl"


def check_target(path: Path, folder: Path) -> None:
    """UserError: a cleaned file is not to be written there."""
    if path.suffix.lower() != SUFFIX:
        raise UserError(f"--fix {path}: its name is to end with {SUFFIX}, the form that it is written in")
    if path.exists():
        raise UserError(f"--fix {path} is there already, and nothing is written over: name another file")
    parent, top = path.resolve().parent, folder.resolve()
    if parent != top and parent.is_relative_to(top):
        raise UserError(
            f"--fix {path}: names of metadata in a subfolder are relative to that, so write it to {top} itself, or "
            "elsewhere"
        )


def fix(survey: Survey, path: Path) -> Counter[str]:
    """Write the captions that are of use to `path`; why others are left out, and how often each.

    With a held-out file it is a clean one of those that are trained on, without copies of what is held out.
    UserError: none is of use.
    """
    kept, dropped = _sifted(survey)
    if not kept:
        raise UserError(f"nothing is of use here, so {path} is not written: {dict(dropped)}")
    groups = _groups(survey, kept)
    with failures.output("--fix FILE writes it elsewhere"):
        files.write_text(path, "".join(f"{_line(entry, groups)}\n" for entry in kept))
    return dropped


def _sifted(survey: Survey) -> tuple[list[Entry], Counter[str]]:
    missing, dropped = set(survey.missing), Counter[str]()
    kept: list[Entry] = []
    apart = {name for names in survey.parted() for name in names} if survey.wanted.held_out_file else set()
    original = {survey.names[each.second]: survey.names[each.first] for each in survey.pairs if each.exact}
    seen: set[tuple[str, Choices]] = set()
    for entry in survey.captions.entries:
        said = tuple((caption, weight) for caption, weight in entry.weighted if caption)
        dropped["empty"] += len(entry.weighted) - len(said)
        shown = original.get(entry.id, entry.id), said
        if entry.id in missing:
            dropped["without a picture"] += len(said)
        elif entry.id in survey.wrong:
            dropped["of a picture that cannot be read"] += len(said)
        elif entry.id in apart:
            dropped["of a copy of a held-out picture"] += len(said)
        elif shown in seen:
            dropped["of the same picture with the same caption as another"] += len(said)
        elif said:
            seen.add(shown)
            kept.append(entry._replace(caption=said[0][0], choices=said))
    dropped["that cannot be used"] += len(survey.captions.bad)
    return kept, +dropped


def _groups(survey: Survey, kept: list[Entry]) -> dict[str, str]:
    """The group of each picture that has copies: that of its first one, or else the name of its first one.

    So pictures without copies stay on the side where they are, and so do the first ones.
    """
    known = {entry.id: entry.group for entry in kept}
    found = dict[str, str]()
    for names in survey.groups:
        left = [name for name in names if name in known]
        if len(left) > 1 or (left and known[left[0]] is not None):
            group = next((known[name] for name in left if known[name] is not None), None) or left[0]
            found |= dict.fromkeys(left, group)
    return found


def _line(entry: Entry, groups: dict[str, str]) -> str:
    captions, weights = zip(*entry.choices, strict=True)
    fields: dict[str, Any] = {NAME: entry.id, "text": captions if len(captions) > 1 else captions[0]}
    if len(set(weights)) > 1:
        fields[WEIGHT] = weights
    if (group := groups.get(entry.id, entry.group)) is not None:
        fields[GROUP] = group
    names = [entry.id, group or ""]  # file names whose bytes are not UTF-8 have lone surrogates
    return json.dumps(fields, ensure_ascii=any(map(surrogate_in, names)))
