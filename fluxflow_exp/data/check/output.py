"""What a check says on the console."""

from collections import Counter
from itertools import groupby
from pathlib import Path

import numpy as np

from fluxflow_exp.config.published import shown
from fluxflow_exp.data.check import proportions
from fluxflow_exp.data.check.findings import Finding
from fluxflow_exp.data.check.proportions import Shapes
from fluxflow_exp.data.check.survey import Survey
from fluxflow_exp.data.image_folder import ImageFolder
from fluxflow_exp.data.loader import groups_of
from fluxflow_exp.errors import counted
from fluxflow_exp.preflight.remarks import FEW_PICTURES, OFTEN

SHOWN = 2  # examples in a line
LONGEST = 120  # characters of one


def report(survey: Survey, found: list[Finding]) -> str:
    """The table of what was found, then sizes, captions, and how long training will be."""
    lines = [f"{shown(str(survey.wanted.folder))}: {head(survey)}"]
    for rank, kinds in groupby(found, key=lambda finding: finding.rank):
        lines += ["", rank, *(line for finding in kinds for line in _lines(finding))]
    sections = {"sizes": sizes(survey), "captions": captions(survey), "training": training(survey)}
    for title, told in sections.items():
        lines += ["", title, *(f"  {line}" for line in told)] if told else []
    return "\n".join(lines)


def head(survey: Survey) -> str:
    """How much was read, and how fast."""
    wanted, count = survey.wanted, len(survey.names)
    said = "no captions"
    if wanted.captions_file:
        said = f"{counted(len(survey.said), 'caption')} ({shown(wanted.captions_file)})"
    rate = count / max(survey.seconds, 1e-9)
    return f"{counted(count, 'picture')}, {said}; read in {survey.seconds:,.1f} s, {rate:,.0f} a second"


def _lines(finding: Finding) -> list[str]:
    examples = [f"{each.name}: {each.detail}" if each.detail else each.name for each in finding.items[:SHOWN]]
    said = "; ".join(shown(each if len(each) <= LONGEST else f"{each[:LONGEST]} …") for each in examples)
    more = "; …" if len(finding.items) > SHOWN else ""
    lines = [f"{len(finding.items):>9,}  {finding.title}", f"{'':11}e.g. {said}{more}"]
    return [*lines, f"{'':11}{finding.advice}"] if finding.advice else lines


def sizes(survey: Survey) -> list[str]:
    """Lines about how large the pictures are, and a proposal of shapes."""
    if not len(survey.at):
        return []
    wanted, sizes = survey.wanted, survey.sizes
    low, middle, high = np.quantile(sizes.min(1), [0, 0.5, 1], method="nearest")
    ratio = np.quantile(sizes.max(1) / sizes.min(1), [0.5, 0.95, 1])
    squares = proportions.shapes_of(sizes, wanted.img_size, 1.0)
    img_size = proportions.fitting(sizes, wanted.img_size)
    best = proportions.proposed(sizes, img_size)
    lines = [
        f"shortest side: {low} to {high} px, half of the pictures up to {middle}",
        f"longest to shortest side: half of the pictures up to {ratio[0]:.2f}:1, 95% up to {ratio[1]:.2f}:1, "
        f"all up to {ratio[2]:.2f}:1",
        f"squares of img_size={wanted.img_size} keep {squares.kept:.0%} of the pixels and enlarge "
        f"{squares.enlarged:.1%} of the pictures",
        f"squares up to img_size={proportions.largest(sizes)} enlarge at most {proportions.FEW:.0%} of them",
    ]
    if wanted.max_ratio is not None:
        lines.append(_kept(proportions.shapes_of(sizes, wanted.img_size, wanted.max_ratio), "as it is"))
    if best.max_ratio > 1:
        lines.append(_kept(best, "proposed"))
    return [*lines, f"paste: {proportions.overrides(best, img_size)}"]


def _kept(shapes: Shapes, what: str) -> str:
    return (
        f"{what}: data.buckets={shapes.max_ratio:g} keeps {shapes.kept:.0%} and enlarges {shapes.enlarged:.1%}, "
        f"in {len(shapes.counts)} shapes"
    )


def captions(survey: Survey) -> list[str]:
    """Lines about how long they are."""
    lengths = [len(caption) for _, caption in survey.said]
    if not lengths:
        return []
    half, most, longest = np.quantile(lengths, [0.5, 0.95, 1], method="nearest")
    distinct = len({caption for _, caption in survey.said})
    return [
        f"{distinct:,} different ones; half have up to {half:,} characters, 95% up to {most:,}, the longest {longest:,}"
    ]


def training(survey: Survey) -> list[str]:
    """Whether training would refuse it; else for each step how many updates it has, and how often pictures are seen."""
    data = survey.trained
    if isinstance(data, str):
        return [f"refused: {shown(data)}"]
    lines = _trained(survey, data)
    samples, shapes = len(data.train), groups_of(data.train).values()
    for step in survey.wanted.steps:
        epoch = sum(len(members) // step.batch_size for members in shapes)
        updates = epoch * step.epochs
        if step.max_updates is not None:
            updates = min(updates, step.max_updates)
        seen = updates * step.batch_size / max(samples, 1)
        copies = ": expect copies" if samples < FEW_PICTURES and seen >= OFTEN else ""
        often = f"{seen:.0f}" if seen >= 100 else f"{seen:.3g}"  # which would be 1.5e+03
        said = f"{counted(samples, 'sample')} / {step.batch_size} = {counted(epoch, 'update')} an epoch; "
        said += f"{counted(updates, 'update')} in all, in which each is seen {often} times{copies}"
        shaped = " of one shape" if len(shapes) > 1 else ""
        few = f"refused: {counted(samples, 'sample')} to train on, fewer than a batch of {step.batch_size}{shaped}"
        lines.append((f"{step.name}: " if step.name else "") + (said if epoch else few))
    return lines


def _trained(survey: Survey, data: ImageFolder) -> list[str]:
    """How many pictures the plan counts, and what becomes of those among them that cannot be read."""
    entries = data.train.entries + data.validation.entries
    lines = [
        f"{counted(len(data.train.entries), 'captioned picture')} to train on and {len(data.validation):,} held out, "
        "as the plan of a run counts them"
    ]
    known = {entry.id for entry in entries}
    lost = known & {*survey.missing, *survey.wrong}
    if lost:
        lines.append(f"{len(lost):,} of them missing or unreadable: while training, others stand in for these")
    bad = len(lost | {name for name, _ in data.bad})
    total = len(data.train) + len(data.validation) + len(data.bad)
    if bad > data.max_bad_fraction * total:
        lines.append(
            f"training stops once it has met them: {bad:,} of {total:,} samples cannot be read, more than "
            f"data.max_bad_fraction={data.max_bad_fraction}"
        )
    return lines


def fixed(path: Path, dropped: Counter[str], *, held_out: bool) -> str:
    """Where the cleaned captions are, and what is not in them."""
    lost = "; ".join(f"{count:,} {why}" for why, count in dropped.items()) or "nothing"
    own = " (the held-out file is as it was)" if held_out else ""
    return f"\n{path} is written{own}. Left out: {lost}\n  train on it: data.captions_file={path}"
