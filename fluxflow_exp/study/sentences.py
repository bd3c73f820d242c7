"""What a study says: one sentence an arm, right whatever came out, and what the study does not say."""

from collections.abc import Mapping
from typing import NamedTuple

from fluxflow_exp.compare.pairs import plain, precision
from fluxflow_exp.monitor.metrics import METRICS, unit
from fluxflow_exp.study.answer import AT_THE_END, Arm, Difference, LearningRate, Outcome, StudyAnswer

CERTAIN_SEEDS = 5  # with fewer the spread itself is a guess
LOOKED_AT = 3  # with as many and no interval all seeds differ alike, and nothing is known of chance
EQUAL = {
    "parameters": "as many parameters",
    "flops": "as many FLOPs an update",
    "memory": "the same memory",
    "time": "the same measured time",
}
ASIDE = "; ".join  # of what is added behind a sentence


class Verdict(NamedTuple):
    kind: str  # better | worse | small | nothing | alike | few | failed
    text: str  # in two or three words


BETTER, WORSE = Verdict("better", "shown better"), Verdict("worse", "shown worse")
BARELY_BETTER, BARELY_WORSE = (
    Verdict("small", "better, too little to matter"),
    Verdict("small", "worse, too little to matter"),
)
NOTHING, ALIKE = Verdict("nothing", "nothing shown"), Verdict("alike", "alike")
FEW, FAILED = Verdict("few", "no interval"), Verdict("failed", "no value")


def title(metric: str) -> str:
    """An outcome's name for readers: "PSNR" of `val_psnr` and `psnr`, "FD at guidance 3" of `fd@3`."""
    name, _, guidance = metric.partition("@")
    known = METRICS.get(name) or METRICS.get(f"val_{name}")
    return f"{known.title if known else name}{f' at guidance {guidance}' if guidance else ''}"


def amount(value: float, metric: str, scale: float | None = None) -> str:
    """A difference with the metric's unit, with two digits of `scale`, by default of itself."""
    shown = plain(value, abs(value) if scale is None else scale)
    return f"{shown} {found}" if (found := unit(metric)) else shown


def level(value: float | None, outcome: Outcome) -> str:
    """A value of a run or a mean, with the digits of the differences that are told beside it."""
    if value is None:
        return "-"
    scales = [
        precision(each.mean, each.low, each.high)
        for each in outcome.differences
        if each.low is not None and each.high is not None and each.low < each.high
    ]
    return plain(value, min(scales)) if scales else f"{value:.4g}"


def wanted(outcome: Outcome) -> str:
    """The smallest difference worth seeing, as the study's file has it."""
    return f"{outcome.smallest or 0:.4g} {unit(outcome.metric) or ''}".rstrip()


def found_of(outcome: Outcome, arm: str) -> Difference | None:
    """The difference of an arm, if there is one."""
    return next((each for each in outcome.differences if each.arm == arm), None)


def verdict(outcome: Outcome, found: Difference | None) -> Verdict:
    """What the interval of `found` says."""
    if found is None:
        return FAILED
    if found.low is None or found.high is None:
        return FEW
    small = bool(outcome.smallest and -outcome.smallest < found.low and found.high < outcome.smallest)
    if found.shown:
        better = (found.mean > 0) == outcome.higher
        return (BARELY_BETTER if better else BARELY_WORSE) if small else (BETTER if better else WORSE)
    if found.low == found.high or small:
        return ALIKE
    return NOTHING


def headline(answer: StudyAnswer) -> list[str]:
    """The answer: a sentence for each arm but the reference, by the metric that decides."""
    outcome = answer.deciding
    so_far = (
        [f"The study is not finished ({answer.unfinished}); this is what it says so far."] if answer.unfinished else []
    )
    if not outcome.values.get(answer.reference.name) and not outcome.differences:
        lacking = _without(answer.reference, outcome)
        return [*so_far, f"{lacking}, and it is the reference: nothing can be compared with it."]
    return [*so_far, *(f"{sentence(answer, outcome, arm)}." for arm in answer.arms[1:])]


def sentence(answer: StudyAnswer, outcome: Outcome, arm: Arm) -> str:
    """What `outcome` says of `arm`, without a full stop."""
    found, reference = found_of(outcome, arm.name), answer.reference
    if found is None:
        return _without(arm, outcome)
    lost = [said for each in (arm, reference) if (said := _lost(each))]
    return ASIDE([_judged(arm.name, reference.name, outcome, found), *lost])


def limits(answer: StudyAnswer) -> list[str]:
    """What the study does not say, and what must be known beside it."""
    verdicts = [verdict(answer.deciding, found_of(answer.deciding, arm.name)) for arm in answer.arms[1:]]
    said = [
        "It was asked of these data, this model and this length of training; another of them may answer otherwise.",
        _equal(answer),
        _seeds(answer),
        _rates(answer),
    ]
    late = [title(outcome.metric) for outcome in answer.outcomes if outcome.at == AT_THE_END and outcome.values]
    if late:
        said.append(f"{', '.join(late)}: measured at the end of each run, and not all had seen as many images by then.")
    if NOTHING in verdicts:
        said.append("Nothing shown is not nothing there: a difference within the interval may exist.")
    if len(answer.outcomes) > 1:
        said.append(
            f"{title(answer.deciding.metric)} decides. The other metrics were looked at beside it, and nothing is "
            "corrected for their number."
        )
    if any(arm.failures for arm in answer.arms):
        said.append("Runs that failed are left out of means and intervals, which can flatter an arm that fails.")
    if any(line.low for curves in answer.curves for line in curves.lines):
        said.append(
            "A band is the 95 % interval of an arm's mean over seeds, update by update; it judges no difference."
        )
    if answer.pictures:
        said.append("Pictures are of one seed: they show what a difference looks like, and are no evidence of one.")
    return [*filter(None, said), *(f"{note[:1].upper()}{note[1:].removesuffix('.')}." for note in answer.notes)]


def pictured(answer: StudyAnswer) -> str:
    """What the pictures are of; nothing without any."""
    found = answer.pictures
    if found is None:
        return ""
    times = sorted(set(found.at.values()))
    at = (
        f"after update {times[0]:,}"
        if len(times) == 1
        else "after as many images, at updates " + ", ".join(f"{update:,} ({arm})" for arm, update in found.at.items())
    )
    what = "The same held-out images" if any(row.original for row in found.rows) else "The same prompts and noise"
    differs = f" Beside the models, {found.differs}." if found.differs else ""
    damaged = f" Left out, since they are damaged: {', '.join(found.damaged)}." if found.damaged else ""
    return f"{what} in all arms, {at}; the runs of seed {found.seed}.{differs}{damaged}"


def brief(reason: str) -> str:
    """The first clause of why a run failed; the table of costs has the rest."""
    return " ".join(reason.split()).partition("; ")[0].partition(". ")[0].removesuffix(".")


def seeds(found: Difference) -> str:
    """How many seeds a difference is of."""
    if len(found.seeds) == 2:
        return f"{found.seeds[1]} and {found.seeds[0]} seeds, not paired"
    return f"{found.seeds[0]} paired seed{'' if found.seeds[0] == 1 else 's'}"


def signed(found: Difference, metric: str) -> str:
    """The difference with its sign, at the digits of its interval: "+0.42 dB"."""
    ends = (found.low, found.high) if found.low is not None and found.high is not None else (found.mean, found.mean)
    if not found.mean:
        return "0"
    return f"{'+' if found.mean > 0 else ''}{amount(found.mean, metric, precision(found.mean, *ends))}"


def interval(found: Difference, metric: str) -> str:
    """The difference's 95 % interval in the metric's unit: "-0.21 to 0.63 dB"; "none" with one seed."""
    if found.low is None or found.high is None:
        return "none"
    if found.low == found.high == 0:
        return "0 to 0"
    scale = precision(found.mean, found.low, found.high)
    return f"{plain(found.low, scale)} to {amount(found.high, metric, scale)}"


def _judged(arm: str, reference: str, outcome: Outcome, found: Difference) -> str:
    metric, kind = outcome.metric, verdict(outcome, found)
    lead, way = abs(found.mean), "higher" if found.mean > 0 else "lower"
    if found.low is None or found.high is None:
        ahead = f"{title(metric)} of {arm} is {amount(lead, metric)} {way}" if lead else f"{title(metric)} is equal"
        if min(found.seeds) >= LOOKED_AT:
            return f"Nothing can be judged of {arm} against {reference}: {ahead} with every seed alike ({seeds(found)})"
        return f"Too few seeds to judge {arm} against {reference}: {ahead} ({seeds(found)}), which may be chance"
    if found.low == found.high == 0:
        return f"{arm} and {reference} are equal to the last digit: {title(metric)} at {seeds(found)}"
    low, high = (found.low, found.high) if found.mean > 0 else (-found.high, -found.low)
    scale = precision(lead, low, high)
    corrected = f" [{found.correction}]" if found.correction else ""
    measured = f"95 % interval {plain(low, scale)} to {plain(high, scale)}{corrected}, {seeds(found)}"
    ahead = f"{amount(lead, metric, scale)} {way}"
    if found.shown:
        little = f", by less than the {wanted(outcome)} worth seeing" if kind in (BARELY_BETTER, BARELY_WORSE) else ""
        side = "better" if kind in (BETTER, BARELY_BETTER) else "worse"
        return f"{arm} is {side} than {reference}{little}: {title(metric)} is {ahead} ({measured})"
    measured = (
        f"{title(metric)} of {arm} less that of {reference} is {signed(found, metric)} "
        f"(95 % interval {plain(found.low, scale)} to {plain(found.high, scale)}{corrected}, {seeds(found)})"
    )
    if kind == ALIKE:
        return (
            f"{arm} and {reference} are alike: {measured}, and a difference of {wanted(outcome)}, the smallest worth "
            "seeing, is ruled out either way"
        )
    return f"No difference is shown between {arm} and {reference}: {measured}; {_would_show(outcome, found)}"


def _would_show(outcome: Outcome, found: Difference) -> str:
    """What difference these seeds would have shown, and how many would show the one that is asked for."""
    metric = outcome.metric
    if found.detectable is None:
        widest = max(abs(found.low or 0), abs(found.high or 0))
        return f"the interval leaves room for one of {amount(widest, metric)}"
    said = f"one of {amount(found.detectable, metric)} would have been seen in four of five tries"
    if outcome.smallest and found.detectable > outcome.smallest and found.needed:
        said += f", and one of {wanted(outcome)} takes about {found.needed} seeds of each"
    return said


def _without(arm: Arm, outcome: Outcome) -> str:
    """Say why an arm has no value."""
    if not arm.failures:
        return f"{arm.name} has no value of {title(outcome.metric)}"
    lost = len(arm.failures)
    every = {1: "its only run", 2: "both of its runs"}.get(lost, f"all {lost} of its runs")
    count = f"{lost} of its runs" if arm.seeds else every
    first = arm.failures[0]
    return (
        f"{arm.name} has no value of {title(outcome.metric)}: {count} failed (seed {first.seed}: {brief(first.reason)})"
    )


def _lost(arm: Arm) -> str:
    """Say that runs of an arm which has others failed."""
    if not arm.failures:
        return ""
    lost, all_ = len(arm.failures), len(arm.failures) + len(arm.seeds)
    return f"{lost} of {all_} runs of {arm.name} failed and {'is' if lost == 1 else 'are'} left out"


def _equal(answer: StudyAnswer) -> str:
    if answer.equal in EQUAL:
        return f"The arms have {EQUAL[answer.equal]}, as near as whole widths allow; what else they cost differs."
    return "Nothing was made equal: an arm may owe its lead to more parameters, computation or memory."


def _seeds(answer: StudyAnswer) -> str:
    fewest = min((min(found.seeds) for found in answer.deciding.differences), default=CERTAIN_SEEDS)
    if fewest >= CERTAIN_SEEDS:
        return ""
    if fewest == 1:
        return "With 1 seed of an arm nothing is known of the spread over seeds."
    return f"With {fewest} seeds of an arm the spread over seeds is itself uncertain."


def _rates(answer: StudyAnswer) -> str:
    own = [arm.name for arm in answer.arms if arm.learning_rate]
    if not own:
        return "No arm chose its learning rate: one that suits an arm better may change the answer."
    others = [arm.name for arm in answer.arms if not arm.learning_rate and arm.seeds]
    if others:
        return f"{', '.join(own)} chose a learning rate; {', '.join(others)} did not, which favours those that did."
    rates = {arm.name: arm.learning_rate for arm in answer.arms if arm.learning_rate}
    said = "Each arm chose its learning rate among those listed; another one may suit it better."
    return " ".join([said, *edges(rates)])


def edges(rates: Mapping[str, LearningRate]) -> list[str]:
    """A sentence for arms that chose the lowest, and for those that chose the highest of the rates they had."""
    found = []
    for way, end, further in (("lowest", min, "a lower"), ("highest", max, "a higher")):
        arms = [arm for arm, each in rates.items() if each.chosen == end(map(float, each.tried))]
        if arms:
            found.append(
                f"{', '.join(arms)} chose the {way} rate there was: try {further} one, which may suit "
                f"{'them' if len(arms) > 1 else 'it'} better."
            )
    return found
