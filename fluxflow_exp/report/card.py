"""The card of one run as HTML, from its facts."""

from typing import Any

import yaml

from fluxflow_exp import files
from fluxflow_exp.report import facts, gallery, page, panels
from fluxflow_exp.report.facts import Card
from fluxflow_exp.report.hours import LABELS
from fluxflow_exp.report.text import count, duration, hours, number, quantity, shown

HEADLINES = 3  # metrics in the first line
# Where a metric comes from: key of a result → title; of the others only what some result has is shown.
ALWAYS = ("metric", "value", "step", "ema")
COLUMNS = {
    "metric": "Metric", "value": "Value", "step": "Step, update", "ema": "Weights", "n": "N", "seed": "Seed",
    "guidance": "Guidance", "img_size": "Size", "implementation": "Made by", "features": "Features",
    "weights_digest": "Weights' digest", "reference_digest": "Reference's digest",
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
    curves = panels.panels(card.track)
    pictured = gallery.gallery({card.name: card.frames}, card.steps)
    results, planned = facts.results(card), facts.planned(card)
    parts = {
        **({"pictures": "Pictures"} if pictured else {}),
        **page.sections(curves),
        **({"metrics": "Metrics and where they come from"} if results else {}),
        "configuration": "Configuration",
        "plan": "Plan against reality",
        "cost": "Cost",
        "restarts": "Starts and restarts",
        "certificates": "Certificates",
    }
    made_with = card.record.get("made_with") or {}
    return page.write(
        "card.html",
        title=f"{card.name}: run card",
        card=card,
        parts=parts,
        choices=_choices(card),
        tiles=_tiles(card),
        problems=page.problems([(None, card)]),
        curves={"panels": curves, "marks": panels.marks(card.track), "runs": None},
        gallery=pictured,
        results=results,
        columns={key: title for key, title in COLUMNS.items() if key in ALWAYS or _known(results, key)},
        command=" ".join(["python -m fluxflow_exp", *card.record.get("overrides", [])]),
        yaml=yaml.safe_dump(card.values, sort_keys=False, allow_unicode=True),
        planned=planned,
        measures={key: each for key, each in MEASURES.items() if any(p[key] != (None, None) for p in planned)},
        cost=_cost(card),
        labels=LABELS,
        spent=[purpose for purpose, value in card.costs.parts.items() if value > 0 or purpose in ("lost", "compile")],
        interrupted=_interrupted(card),
        certificates=facts.certificates(card),
        versions={name: value for name, value in made_with.items() if name != "machine"},
        digests={name: each for name, each in card.digests.items() if "samples/" not in name},
    )


def _known(results: list[dict[str, Any]], key: str) -> bool:
    return any(each.get(key) is not None for each in results)


def _choices(card: Card) -> list[str]:
    values = card.values
    activation, size = values["model"].get("activation"), values["data"].get("img_size")
    middle = [*([str(activation)] if activation else []), *([f"{size} px"] if size else [])]
    return [f"stage {values['stage']['name']}", f"model {values['model']['name']}", *middle, f"seed {values['seed']}"]


def _tiles(card: Card) -> list[tuple[str, str, str | None]]:
    """The numbers at the top: label, value, note."""
    parts: dict[str, int] = {}
    for entry in card.record["steps"].values():
        parts |= entry.get("parameters", {})
    unreadable = files.count_lines(card.folder.bad_samples)
    return [
        *((*_headline(each), each["step"]) for each in _headlines(card)),
        ("updates", count(facts.updates(card)), _of_steps(card)),
        ("run time", duration(card.record["wall_seconds"]), _interrupted(card)),
        *([(card.costs.unit, hours(card.costs.hours), _price(card))] if card.costs.unit != "hours" else []),
        *([("unreadable samples", count(unreadable), card.folder.bad_samples.name)] if unreadable else []),
        *([("parameters", count(sum(parts.values())), f"{len(parts)} parts")] if parts else []),
    ]


def _headlines(card: Card) -> list[dict[str, Any]]:
    """The metrics that say most: the last value of each that is not a part of another one."""
    found = {
        each["metric"]: each
        for each in facts.results(card)
        if each["implementation"] == facts.OURS and not each["metric"].startswith("prompt_accuracy_")
    }
    order = ["val_psnr", "prompt_accuracy", "val_flow"]
    names = [*(name for name in order if name in found), *(name for name in found if name not in order)]
    return [found[name] for name in names[:HEADLINES]]


def _headline(result: dict[str, Any]) -> tuple[str, str]:
    title = result["title"]
    lower = title if title[:2].isupper() else title[:1].lower() + title[1:]
    return f"held-out {lower}", quantity(result["value"], result["unit"])


def _of_steps(card: Card) -> str:
    """How many steps there are; of a run that has not ended, where it stands."""
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


def _price(card: Card) -> str | None:
    return None if card.costs.price is None else f"{card.costs.price:.2f} USD"


def _cost(card: Card) -> str:
    cost, price = card.costs, _price(card)
    total = duration(3600 * cost.hours) if cost.unit == "hours" else f"{hours(cost.hours)} {cost.unit}"
    return f"{total}, {price}" if price else total
