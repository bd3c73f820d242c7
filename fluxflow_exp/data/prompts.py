"""Prompts from text files, and the names of the images that are made of them."""

import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from fluxflow_exp.data.captions import lines_of
from fluxflow_exp.errors import UserError


class Prompt(NamedTuple):
    stem: str  # of the file that its images get
    text: str


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a folder of .txt files or of one .txt file. UserError: there are none."""
    if os.path.isdir(path):
        found = sorted(path.glob("*.txt"))
        for skipped in (p.name for p in found if not os.path.isfile(p)):
            print(f"left out: {skipped} is no file", file=sys.stderr)
        prompts = [Prompt(p.stem, "\n".join(_lines(p)).strip()) for p in found if os.path.isfile(p)]
    elif os.path.isfile(path):
        lines = [line.strip() for line in _lines(path)]
        prompts = [Prompt(f"{i:03d}_{_slug(t)}", t) for i, t in enumerate(filter(None, lines))]
    else:
        raise UserError(f"--text_prompts_path: there is no file or folder {path}")
    if not prompts:
        raise UserError(f"--text_prompts_path: {path} holds no prompts (.txt files, or lines of one)")
    return prompts


def stems(prompts: list[Prompt]) -> list[str]:
    """One file stem an image, no two alike: where each of the prompts has as many images, all have a number, from 0."""
    each = max(Counter(prompt.stem for prompt in prompts).values())
    seen: Counter[str] = Counter()
    found = []
    for stem, _ in prompts:
        found.append(f"{stem}_{seen[stem]:0{len(str(each - 1))}d}" if each > 1 else stem)
        seen[stem] += 1
    return found


def _lines(path: Path) -> list[str]:
    try:
        return lines_of(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error}") from error


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40]
