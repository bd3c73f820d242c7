"""The card of one run as HTML, from its facts."""

import shlex
from typing import Any

import yaml

from fluxflow_exp import files
from fluxflow_exp.errors import counted
from fluxflow_exp.evaluation import record
from fluxflow_exp.models.facts import moment, read_facts
from fluxflow_exp.report import facts, gallery, page, panels
from fluxflow_exp.report.facts import Card
from fluxflow_exp.report.hours import LABELS
from fluxflow_exp.report.text import count, duration, hours, number, quantity, shown

HEADLINES = ("val_psnr", "prompt_accuracy", "val_flow")  # metrics that come first among as many at the top
# Where a metric comes from: key of a result → title
COLUMNS = {
    "metric": "Metric", "value": "Value", "step": "Step, update", "ema": "Weights", "n": "N", "seed": "Seed",
    "guidance": "Guidance", "sampler": "Sampler", "img_size": "Size", "implementation": "Made by",
    "features": "Features", "weights_digest": "Weights' digest", "reference_digest": "Reference's digest",
}  # fmt: skip
# What was planned and what came: key of facts.planned → title, how a number of it is written
MEASURES = {
    "updates": ("Updates", shown),
    "micro_batch": ("Images a pass", shown),
    "seconds_an_update": ("Seconds an update", number),
    "hours": ("Time", lambda value: duration(3600 * value)),
    "peak_gib": ("Peak memory, GiB", number),
    "tflop_an_update": ("TFLOP an update", number),
}


def write(card: Card) -> str:
    """Return the whole file."""
    best = {step: each["best"] for step, each in card.record["steps"].items() if "best" in each}
    curves = panels.panels(card.track, best)
    pictured = gallery.gallery({card.name: card.frames}, card.steps)
    results, planned = facts.results(card), facts.planned(card)
    copies = gallery.copies(card.evaluations, card.folder.path / "evaluations")
    parts = {
        **({"pictures": "Pictures"} if pictured else {}),
        **page.sections(curves),
        **({"copies": "Closest training images"} if copies else {}),
        **({"metrics": "Metrics and where they come from"} if results else {}),
        "configuration": "Configuration",
        "plan": "Plan against reality",
        "cost": "Cost",
        "restarts": "Starts and restarts",
        "certificates": "Certificates",
    }
    made_with, words = card.record.get("made_with") or {}, card.record.get("overrides", [])
    return page.write(
        "card.html",
        title=f"{card.name}: run card",
        card=card,
        parts=parts,
        tiles=_tiles(card),
        problems=page.problems({card.name: card}, several=False),
        curves={"panels": curves, "marks": panels.marks(card.track), "runs": None},
        gallery=pictured,
        copies=copies,
        results=results,
        going_on=facts.going_on(card),
        remarks=record.remarks(card.evaluations),
        published=_published(card),
        standings=facts.standings(card),
        columns={key: title for key, title in COLUMNS.items() if any(each.get(key) is not None for each in results)},
        command=shlex.join(["python", "-m", "fluxflow_exp", *words]),
        predict=shlex.join(
            ["python", "-m", "fluxflow_exp.plan", *words, "--json", str(card.folder.path / "plan.json")]
        ),
        yaml=yaml.safe_dump(card.values, sort_keys=False, allow_unicode=True),
        planned=planned,
        measures={key: each for key, each in MEASURES.items() if any(p[key] != (None, None) for p in planned)},
        labels=LABELS,
        spent=[purpose for purpose, value in card.costs.parts.items() if value > 0 or purpose in ("lost", "compile")],
        interrupted=_interrupted(card),
        certificates=facts.certificates(card),
        versions={name: value for name, value in made_with.items() if name != "machine"},
        digests={name: each for name, each in card.digests.items() if "samples/" not in name},
    )


def _published(card: Card) -> list[str]:
    """What `final.safetensors` has of a step, where that is not its end."""
    final = card.folder.weights / "final.safetensors"
    if not final.is_file():
        return []
    try:
        found = read_facts(final)
    except ValueError as error:
        return [f"What {final.name} holds is not known: {error}"]
    logged = "what was logged while training is of its end"
    return [f"{final.name} has step {step} {moment(found, step)}; {logged}" for step in found.get("best", {})]


def _tiles(card: Card) -> list[tuple[str, str, str | None]]:
    """The numbers at the top: label, value, note."""
    parts: dict[str, int] = {}
    for entry in card.record["steps"].values():
        parts |= entry.get("parameters", {})
    unreadable, cost = files.count_lines(card.folder.bad_samples), card.costs
    price = None if cost.price is None else f"{cost.price:.2f} USD"
    metrics = sorted(
        facts.last(card).values(),
        key=lambda each: HEADLINES.index(each["metric"]) if each["metric"] in HEADLINES else 9,
    )
    return [
        *(_headline(each) for each in metrics[: len(HEADLINES)]),
        ("updates", count(facts.updates(card)), _of_steps(card)),
        ("run time", duration(card.record["wall_seconds"]), _interrupted(card)),
        *([(cost.unit, hours(cost.hours), price)] if cost.unit != "hours" else []),
        *([("unreadable samples", count(unreadable), card.folder.bad_samples.name)] if unreadable else []),
        *([("parameters", count(sum(parts.values())), counted(len(parts), "part"))] if parts else []),
    ]


def _headline(result: dict[str, Any]) -> tuple[str, str, str]:
    title = result["title"]
    lower = title if title[:2].isupper() else title[:1].lower() + title[1:]
    return f"held-out {lower}", quantity(result["value"], result["unit"]), f"step {result['step']}"


def _of_steps(card: Card) -> str:
    """The number of steps; of a run that has not ended, where it stands."""
    names = card.steps
    if card.state.state == "done":
        return f"{len(names)} steps" if len(names) > 1 else f"step {names[0]}"
    planned = [card.record.get("planned", {}).get(name, {}).get("updates") for name in names]
    whole = f"of {count(sum(planned))}, " if all(planned) else ""
    at = max((index for index, name in enumerate(names, start=1) if card.track.steps[name]), default=1)
    return f"{whole}step {at} of {len(names)}"


def _interrupted(card: Card) -> str:
    times = card.record["restarts"]
    if times:
        return f"{times} restart{'s' if times != 1 else ''}"
    return "never interrupted" if card.state.state == "done" else "not restarted"
