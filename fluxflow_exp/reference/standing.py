"""Where a run lies beside the reference runs that it is similar to: a function of its rows, so that a resumed run is
told the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fluxflow_exp.reference import alike, curves, words
from fluxflow_exp.reference.curves import Facts, Reference
from fluxflow_exp.reference.words import Finding
from fluxflow_exp.run.metric_log import Row, row_every

SAME, OTHER = 0.05, 0.15  # of the mean: a band's least width on each side, on the reference's own data and on other
RATE_WITHIN = 0.15  # of the peak: learning rates that count as equal
WINDOW = 0.1  # of the updates so far: losses of training are averaged over this last part


@dataclass(frozen=True)
class Standing:
    """One step of a run beside the reference that it is similar to."""

    step: str
    facts: Facts
    log_every: int
    reference: Reference
    apart: str | None  # the first earlier step that lay apart from its own reference

    def findings(self, rows: Sequence[Row]) -> list[Finding]:
        """What there is to say at the last evaluation of `rows` about which there is anything; empty: nothing."""
        evaluations = [index for index, row in enumerate(rows) if row["kind"] == "held_out"]
        return next(filter(None, (self._at(rows[: index + 1]) for index in reversed(evaluations))), [])

    def news(self, rows: Sequence[Row]) -> str:
        """What the last evaluation says of metrics that have left their band since the one before; "" if none has."""
        ends = [index + 1 for index, row in enumerate(rows) if row["kind"] == "held_out"][-2:]
        before = {each.metric: each.side for each in self._at(rows[: ends[0]])} if len(ends) > 1 else {}
        left = [each for each in self._at(rows[: ends[-1]]) if each.side not in (0, before.get(each.metric))]
        return words.told(self.step, left, self.facts, self.reference, apart=self.apart)

    def summary(self, rows: Sequence[Row]) -> str:
        """Where the step stands in the end; "" if there is nothing to say."""
        return words.told(self.step, self.findings(rows), self.facts, self.reference, apart=self.apart)

    def _at(self, rows: Sequence[Row]) -> list[Finding]:
        theirs, update = self.reference.steps[self.step], rows[-1]["global_step"]
        rate = rate_of(rows, self.facts)
        if rate is None:
            return []
        tolerance = SAME if alike.same_data(self.facts, theirs) else OTHER
        pictures = update * self.facts.batch_size
        bands = {
            metric: curves.band(points, pictures, rate=rate, tolerance=tolerance, rate_within=RATE_WITHIN)
            for metric, points in theirs.metrics.items()
        }
        values = at(rows, log_every=self.log_every) if any(bands.values()) else {}
        found = [(metric, value, bands.get(metric)) for metric, value in values.items()]
        return [Finding(metric, update, value, band) for metric, value, band in found if band]


def at(rows: Sequence[Row], *, log_every: int) -> dict[str, float]:
    """The judged metrics as they are at the last of `rows`: held-out ones of it, losses of training as recent means."""
    update, last = rows[-1]["global_step"], rows[-1]
    since = (1 - WINDOW) * update
    recent = [row for row in rows if row["kind"] == "train" and row["global_step"] - log_every >= since]
    found = {}
    for metric in words.CHECKS:
        rows_of_it = recent if not metric.startswith("val_") else [last] if last["kind"] == "held_out" else []
        values = [row["metrics"].get(metric) for row in rows_of_it]
        known = [value for value in values if value is not None]
        if known:
            found[metric] = sum(known) / len(known)
    return found


def rate_of(rows: Sequence[Row], facts: Facts) -> float | None:
    """The learning rate at the last of `rows` as a share of the configured one; None: no row tells."""
    for row in reversed(rows):
        for player, rate in row["learning_rates"].items():
            peak = facts.settings["learning rate"].get(player)
            if peak:
                return float(rate / peak)
    return None


def of(values: dict[str, Any], record: dict[str, Any], step: str) -> Standing | None:
    """The standing of a step of a run, by its frozen configuration and record; None: it is similar to no reference.

    UserError: the file that `evaluation.reference` names cannot be read.
    """
    if "batch_size" not in record.get("planned", {}).get(step, {}):
        return None
    facts = alike.facts(values, record, step)
    reference = alike.nearest(facts, step, known(values))
    if reference is None:
        return None
    earlier = list(values["stage"]["steps"])[: list(values["stage"]["steps"]).index(step)]
    apart = [name for name in earlier if words.APART in record["steps"].get(name, {}).get("standing", "")]
    every = row_every(values["log_every"], record["planned"][step]["updates"])
    return Standing(step, facts, every, reference, next(iter(apart), None))


def known(values: dict[str, Any]) -> list[Reference]:
    """The references that a run's configuration asks to be compared with. UserError: its file cannot be read."""
    return curves.asked(values.get("evaluation", {}).get("reference", "shipped"))
