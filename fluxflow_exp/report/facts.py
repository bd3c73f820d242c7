"""The facts that a run folder holds, gathered for a card. Nothing is measured here and nothing is read twice."""

import shlex
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from fluxflow_exp import files
from fluxflow_exp.console import FRESH
from fluxflow_exp.errors import UserError
from fluxflow_exp.monitor.metrics import METRICS, named
from fluxflow_exp.reference import standing
from fluxflow_exp.report import config_diff, gallery, hours, panels
from fluxflow_exp.report.config_diff import Parent
from fluxflow_exp.report.gallery import Frame
from fluxflow_exp.report.hours import Hours
from fluxflow_exp.report.panels import Track
from fluxflow_exp.run import states
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.identity import flatten
from fluxflow_exp.run.metric_log import Row, read_rows
from fluxflow_exp.run.states import Entry

OURS = "fluxflow_exp, while training"


# One field for each file or a section of the card.
@dataclass
class Card:
    """One run. What its folder does not hold is None or empty."""

    folder: RunFolder
    values: dict[str, Any]  # the frozen configuration
    flat: dict[str, Any]  # the same by dotted key
    record: dict[str, Any]
    state: Entry
    track: Track
    parent: Parent
    costs: Hours
    frames: list[Frame]
    evaluations: list[dict[str, Any]]  # records of RUN/evaluations/*.json, each with its file and if that is `replaced`
    plan: dict[str, Any] | None  # what fluxflow_exp.plan has predicted
    non_finite: dict[str, Any] | None
    wiring: dict[str, Any] | None
    digests: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.path.absolute().name

    @property
    def steps(self) -> list[str]:
        return list(self.values["stage"]["steps"])


def read(folder: RunFolder) -> Card:
    """Gather what is in `folder`. UserError: it holds no run, or a file of it cannot be read."""
    if not folder.exists():
        raise UserError(f"there is no run in {folder.path} (no run.json); name a run folder, e.g. outputs/quickstart")
    try:
        values, record = folder.frozen(), folder.read_record()
        flat = dict(flatten(values))
        track = Track({step: read_rows(folder.metrics(step)) for step in values["stage"]["steps"]})
        return Card(
            folder=folder,
            values=values,
            flat=flat,
            record=record,
            state=states.state(folder, record),
            track=track,
            parent=config_diff.find(values),
            costs=hours.split(record, flat),
            frames=gallery.frames(track, folder.samples),
            evaluations=_evaluations(folder.path / "evaluations", _maybe(folder.digests) or {}),
            plan=_maybe(folder.path / "plan.json"),
            non_finite=_maybe(folder.path / "non_finite.json"),
            wiring=_maybe(folder.path / "wiring.json"),
            digests=_maybe(folder.digests) or {},
        )
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{folder.path} cannot be shown: a file of it is not whole ({error})") from error


def results(card: Card) -> list[dict[str, Any]]:
    """Each metric with where it comes from: of evaluations, then of the ends of the steps, or where one stands."""
    found = list(card.evaluations)
    for step in card.steps:
        of_step = card.values["stage"]["steps"][step]
        update, last = _last(card, step)
        for metric, value in last.items():
            prompts = metric.startswith("prompt")
            found.append(
                {
                    "metric": metric,
                    "title": named(metric).title,
                    "value": value,
                    "unit": named(metric).unit or None,
                    "step": step,
                    "update": update,
                    "ema": of_step.get("ema") is not None,
                    "n": card.flat.get("evaluation.prompts") if prompts else _images(card, step),
                    "seed": card.values["seed"],
                    "guidance": _guidance(card, of_step) if prompts else None,
                    "implementation": OURS,
                }
            )
    return found


def _images(card: Card, step: str) -> int | None:
    """Those that a step measures: `evaluation.images`, or all held-out ones where the record says there are fewer."""
    contents = (card.record.get("contents") or {}).get(step)  # None of a stream
    known = [card.flat.get("evaluation.images"), contents and contents["held_out"]]
    return min((count for count in known if count is not None), default=None)


def _guidance(card: Card, step: dict[str, Any]) -> float | None:
    """That of held-out prompts: 1 in a step that drops no caption."""
    scale: float | None = card.flat.get("evaluation.guidance_scale")
    return scale if step.get("cfg_dropout_prob") else 1.0


def going_on(card: Card) -> tuple[str, str | None] | None:
    """Of a run that was interrupted: what became of it, and the command that goes on, if that is known."""
    if card.state.state != states.INTERRUPTED:
        return None
    if card.record.get("closed") == "stopped":
        told = "It was stopped by a signal, and everything is saved."
    else:
        told = "It ended without a save; what was done since the last one is done again."
    if card.folder.path.absolute().parent.name == card.values["name"]:
        return f"{told} The command that launched its sweep goes on with it", None
    words = [word for word in card.record.get("overrides", []) if word != FRESH]
    return f"{told} The same command goes on", shlex.join(["python", "-m", "fluxflow_exp", *words])


def last(card: Card) -> dict[str, dict[str, Any]]:
    """The last result of each metric that this package measured while training and that is no part of another one."""
    return {
        each["metric"]: each
        for each in results(card)
        if each["implementation"] == OURS and not each["metric"].startswith("prompt_accuracy_")
    }


def updates(card: Card) -> int:
    """Updates of all steps that are known: up to the last row, or to the one that was not finite."""
    found = card.non_finite
    broken = card.track.offsets.get(found["step"], 0) + found["update"] - 1 if found else 0
    return max(card.track.updates, broken)


def _last(card: Card, step: str) -> tuple[int, dict[str, Any]]:
    """The update of the last metrics of a step, and these."""
    entry = card.record["steps"].get(step)
    if entry:
        return entry["updates"], entry.get("final", {})
    rows = [row for row in card.track.steps[step] if row["kind"] == "held_out"]
    return (rows[-1]["global_step"], rows[-1]["metrics"]) if rows else (0, {})


def warnings(card: Card) -> list[dict[str, Any]]:
    """Warnings of health rows in order; one that was repeated stands once, with how often and where last."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for step, rows in card.track.steps.items():
        for row in rows:
            for code, text in row.get("warnings", {}).items():
                fresh = {"step": step, "code": code, "text": text, "first": row["global_step"], "times": 0}
                there = found.setdefault((step, code), fresh)
                there |= {"text": text, "last": row["global_step"], "times": there["times"] + 1}
    return list(found.values())


def standings(card: Card) -> dict[str, str]:
    """Step → where it lies beside reference runs, as its end has told it, or as it stands; only what is known."""
    found = {}
    for step in card.steps:
        entry = card.record["steps"].get(step)
        if entry is not None:
            found[step] = entry.get("standing", "")
            continue
        with suppress(UserError):  # a file of curves that is gone since: the run says so, and goes on
            there = standing.of(card.values, card.record, step)
            found[step] = there.summary(card.track.steps[step]) if there else ""
    return {step: said for step, said in found.items() if said}


def planned(card: Card) -> list[dict[str, Any]]:
    """For each step what was meant, what was predicted, and what came."""
    predicted = {each["step"]: each for each in (card.plan or {"steps": []})["steps"]}
    found = []
    for step in card.steps:
        meant, done = card.record.get("planned", {}).get(step, {}), card.record["steps"].get(step, {})
        rows = card.track.steps[step]
        update = done.get("updates", rows[-1]["global_step"] if rows else 0)
        last: dict[str, float] = next((row["extras"] for row in reversed(rows) if "seconds" in row["extras"]), {})
        seconds = done.get("seconds", last.get("seconds"))
        forecast = predicted.get(step, {})
        found.append(
            {
                "step": step,
                "updates": (meant.get("updates"), update),
                "micro_batch": (meant.get("micro_batch"), done.get("micro_batch")),
                "seconds_an_update": (forecast.get("seconds"), _seconds_an_update(rows)),
                "hours": (forecast.get("hours"), seconds / 3600 if seconds is not None else None),
                "peak_gib": (forecast.get("peak_gib"), done.get("peak_gib")),
                "tflop_an_update": (forecast.get("tflop"), None),  # counted from the configuration, never measured
                "ended_by": done.get("ended_by"),
            }
        )
    return found


def _seconds_an_update(rows: list[Row]) -> float | None:
    """The mean of a step's updates, without what was compiled before the first row where there are more."""
    logged = [(row["global_step"], row["extras"]["batch_time"]) for row in rows if "batch_time" in row["extras"]]
    spans = [(update - before, each) for (before, _), (update, each) in pairwise([(0, 0.0), *logged])]
    counted = spans[1:] or spans
    return sum(span * each for span, each in counted) / sum(span for span, _ in counted) if counted else None


def certificates(card: Card) -> list[dict[str, Any]]:
    """The facts that vouch for the run, or do not: `passed` is None where something is only stated."""
    record = card.record
    made_with = record.get("made_with") or {}
    changed = record.get("changed_code")
    code = f"commit {record.get('commit') or 'unknown'}" + (
        ", with uncommitted changes (code.diff)" if changed else ", nothing uncommitted"
    )
    size = sum(each["bytes"] for each in card.digests.values())
    found: list[dict[str, Any]] = [
        {"what": "Code", "passed": bool(record.get("commit")) and not changed, "detail": code},
        {"what": "Interruption", "passed": None, "detail": made_with.get("machine", "no machine is recorded")},
        {
            "what": "Digests",
            "passed": None,
            "detail": f"SHA-256 of {len(card.digests)} finished files, {size / 2**20:.1f} MiB, in digests.json; "
            f"python -m fluxflow_exp.verify {card.folder.path} reads and compares them"
            if card.digests
            else "none: no step has ended",
        },
    ]
    if card.wiring:
        checks = card.wiring["checks"]
        failed = [f"{each['step']}: {each['check']} ({each['note']})" for each in checks if not each["passed"]]
        told = f"{len(checks)} checks on {card.wiring['date']} with version {card.wiring['version']}"
        found.append({"what": "Wiring", "passed": card.wiring["passed"], "detail": "; failed: ".join([told, *failed])})
    found += [
        {"what": "Started from", "passed": None, "detail": f"{path} (SHA-256 {digest[:16]}…)"}
        for path, digest in record.get("upstream", {}).items()
    ]
    return found


def as_json(card: Card) -> dict[str, Any]:
    """The card without pictures, for programs."""
    return {
        "format": 1,
        "run": str(card.folder.path),
        "state": asdict(card.state),
        "parent": asdict(card.parent),
        "plan": planned(card),
        "metrics": results(card),
        "verdicts": {step: each["verdict"] for step, each in card.record["steps"].items() if "verdict" in each},
        "standings": standings(card),
        "warnings": warnings(card),
        "non_finite": card.non_finite,
        "costs": asdict(card.costs),
        "starts": card.record.get("starts", []),
        "certificates": certificates(card),
        "panels": panels.panels(card.track),
    }


def _evaluations(folder: Path, digests: dict[str, Any]) -> list[dict[str, Any]]:
    """`replaced`: the file that was measured holds other weights now."""
    found = []
    for path in sorted(folder.glob("*.json")):
        measured = files.read_json(path)
        now = digests.get(f"weights/{path.stem}.safetensors")
        replaced = now is not None and now["sha256"] != measured.get("digest", now["sha256"])
        for record in measured["results"]:
            known = METRICS.get(f"val_{record['metric']}") or named(record["metric"])
            unit = record["unit"] or known.unit or None
            found.append({**record, "title": known.title, "unit": unit, "file": path.name, "replaced": replaced})
    return found


def _maybe(path: Path) -> dict[str, Any] | None:
    found: dict[str, Any] | None = files.read_json(path) if path.exists() else None
    return found
