"""What is said of a run beside reference runs: one calm line, and where it lies apart what to look at first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fluxflow_exp.reference import alike
from fluxflow_exp.reference.curves import Band, Facts, Reference


class Checks(NamedTuple):
    """What to look at first where a metric is above or below its band."""

    above: str
    below: str


APART = ": apart from "  # in each line about what lies outside
CAPTIONS = (
    "the captions (python -m fluxflow_exp.data.check), then the learning rate, then latent_std in the health rows "
    "(about 1 is right)"
)
LEAK = "whether held-out pictures are among the training ones (python -m fluxflow_exp.data.check shows near copies)"
TWICE = "whether pictures are there several times (python -m fluxflow_exp.data.check shows copies)"
PICTURES = "the learning rate, then whether samples/ shows the pictures as they are meant"
PLAIN = "whether the pictures are plainer than theirs, or small ones enlarged (python -m fluxflow_exp.data.check)"
# The metrics that are judged, held-out ones first: the one that a step is about leads.
CHECKS = {
    "val_psnr": Checks(above=f"{LEAK}, then {PLAIN}", below=PICTURES),
    "val_flow": Checks(above=CAPTIONS, below=LEAK),
    "l1": Checks(above=PICTURES, below=PLAIN),
    "flow": Checks(above=CAPTIONS, below=TWICE),
}


@dataclass(frozen=True)
class Finding:
    """A metric of the run at one update, and the band there."""

    metric: str
    update: int
    value: float
    band: Band

    @property
    def side(self) -> int:
        """-1: below the band, 0: in it, 1: above."""
        return (self.value > self.band.most) - (self.value < self.band.least)


def told(
    step: str, findings: Sequence[Finding], facts: Facts, reference: Reference, *, apart: str | None = None
) -> str:
    """Return a line for what lies in its band, and one for each thing to check; "" of no findings.

    `apart`: an earlier step that lay apart from its own reference, which is then the thing to check.
    """
    groups: dict[str, list[Finding]] = {}
    for each in sorted(findings, key=lambda each: each.side != 0):
        groups.setdefault(_check(each, apart), []).append(each)
    return "\n".join(_line(step, check, found, facts, reference) for check, found in groups.items())


def _check(found: Finding, apart: str | None) -> str:
    if found.side == 0:
        return ""
    if apart:
        return f"step {apart} first, which lay apart as well: this one learns from what it has made"
    return CHECKS[found.metric].above if found.side > 0 else CHECKS[found.metric].below


def _line(step: str, check: str, findings: Sequence[Finding], facts: Facts, reference: Reference) -> str:
    theirs, update = reference.steps[step], findings[0].update
    seen = "" if facts.batch_size == theirs.batch_size else f" ({update * facts.batch_size:,} pictures)"
    them = f"{len(reference.seeds)} runs on {reference.of}"
    if not check:
        named = ", ".join(f"{each.metric} {_number(each.value)} in {_expected(each)}" for each in findings)
        return f"Step {step}, update {update:,}{seen}: on track beside {them}: {named}"
    named = ", ".join(
        f"{each.metric} {_number(each.value)} is {'above' if each.side > 0 else 'below'} {_expected(each)} "
        f"(they had {_range(each)})"
        for each in findings
    )
    different = [
        f"{what} {_setting(here)}, there {_setting(theirs.settings.get(what))}"
        for what, here in facts.settings.items()
        if here != theirs.settings.get(what)
    ]
    return (
        f"Step {step}, update {update:,}{seen}{APART}{them}: {named}. Check {check}"
        + (f". Different here: {'; '.join(different)}" if different else "")
        + ("" if alike.same_data(facts, theirs) else ". Pictures of another kind than theirs move it, too")
    )


def _expected(found: Finding) -> str:
    return f"{_number(found.band.least)} to {_number(found.band.most)}"


def _range(found: Finding) -> str:
    return f"{_number(found.band.low)} to {_number(found.band.high)}"


def _number(value: float) -> str:
    return f"{value:#.3g}".rstrip(".")


def _setting(value: object) -> str:
    if isinstance(value, dict):
        alone = set(value.values())
        return _setting(alone.pop()) if len(alone) == 1 else ", ".join(f"{k} {_setting(v)}" for k, v in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
