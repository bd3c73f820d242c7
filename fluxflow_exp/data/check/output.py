"""What a check says on the console."""

from collections import Counter
from itertools import groupby
from pathlib import Path

import numpy as np

from fluxflow_exp.config.published import shown
from fluxflow_exp.data.buckets import variants
from fluxflow_exp.data.check import proportions
from fluxflow_exp.data.check.findings import Finding
from fluxflow_exp.data.check.proportions import Shapes
from fluxflow_exp.data.check.survey import Survey
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
    said = f"{len(survey.said):,} captions ({shown(wanted.captions_file)})" if wanted.captions_file else "no captions"
    rate = count / max(survey.seconds, 1e-9)
    return f"{count:,} pictures, {said}; read in {survey.seconds:,.1f} s, {rate:,.0f} a second"


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
    best = proportions.proposed(sizes, wanted.img_size)
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
    return [*lines, f"paste: {proportions.overrides(best, wanted.img_size)}"]


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
    """A line for each step: how many updates it has, and how often each picture is seen."""
    if not survey.entries:
        return []
    trained = [entry.id for entry in survey.entries if entry.id not in survey.held_out]
    held_out = len(survey.entries) - len(trained)
    lines = [f"{len(trained):,} captioned pictures are trained on, {held_out:,} are held out"]
    shapes = _samples(survey, trained)
    samples = sum(shapes)
    for step in survey.wanted.steps:
        epoch = sum(count // step.batch_size for count in shapes)
        updates = epoch * step.epochs
        if step.max_updates is not None:
            updates = min(updates, step.max_updates)
        seen = updates * step.batch_size / max(samples, 1)
        copies = ": expect copies" if samples < FEW_PICTURES and seen >= OFTEN else ""
        said = f"{samples:,} samples / {step.batch_size} = {epoch:,} updates an epoch; {updates:,} updates in all, in "
        said += f"which each is seen {seen:.3g} times{copies}"
        few = "fewer samples of one shape than a batch: it cannot be trained"
        lines.append((f"{step.name}: " if step.name else "") + (said if epoch else few))
    return lines


def _samples(survey: Survey, trained: list[str]) -> list[int]:
    """How many samples of an epoch have each shape, as training counts them."""
    wanted = survey.wanted
    if wanted.max_ratio is None and not wanted.reduced_min_sizes:
        return [len(trained)]
    row = {survey.names[index]: tuple(size) for index, size in zip(survey.at, survey.sizes.tolist(), strict=True)}
    found = variants(
        [row[name] for name in trained if name in row],
        img_size=wanted.img_size, max_ratio=wanted.max_ratio, reduced_min_sizes=wanted.reduced_min_sizes,
    )  # fmt: skip
    return list(Counter(variant.size for variant in found).values())


def fixed(path: Path, dropped: Counter[str], *, held_out: bool) -> str:
    """Where the cleaned captions are, and what is not in them."""
    lost = "; ".join(f"{count:,} {why}" for why, count in dropped.items()) or "nothing"
    own = " (the held-out file is as it was)" if held_out else ""
    return f"\n{path} is written{own}. Left out: {lost}\n  train on it: data.captions_file={path}"
