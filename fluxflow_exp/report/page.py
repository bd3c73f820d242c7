"""The card of one run as HTML, from its facts."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import yaml

from fluxflow_exp import files
from fluxflow_exp.report import facts, gallery, html, panels
from fluxflow_exp.report.facts import Card
from fluxflow_exp.report.html import Html, details, join, section, table, tag
from fluxflow_exp.report.text import UNKNOWN, count, digest, duration, hours, number, quantity, shown
from fluxflow_exp.report.views import balance_bar, curves, pictures, problems

HEADLINES = 3  # metrics in the first line


def write(card: Card) -> str:
    """The whole file."""
    found = panels.panels(card.track)
    pictured = gallery.gallery({card.name: card.frames}, card.steps)
    parts = [
        ("pictures", "Pictures", pictures(pictured)),
        *curves(found),
        ("metrics", "Metrics and where they come from", _metrics(card)),
        ("configuration", "Configuration", _configuration(card)),
        ("plan", "Plan against reality", _plan(card)),
        ("cost", "Cost", _cost(card)),
        ("restarts", "Starts and restarts", _starts(card)),
        ("certificates", "Certificates", _certificates(card)),
    ]
    shown_parts = [part for part in parts if part[2] is not None]
    body = join(
        [
            _header(card),
            problems([(None, card)]),
            tag("nav", *(tag("a", title, href=f"#{name}") for name, title, _ in shown_parts), aria_label="Parts"),
            tag("main", *(section(*part) for part in shown_parts)),
            footer(),
            html.data("curves", {"panels": found, "marks": panels.marks(card.track), "runs": None}),
            html.data("gallery", pictured),
        ]
    )
    return html.page(f"{card.name}: run card", body)


def _header(card: Card) -> Html:
    values, record = card.values, card.record
    parts: dict[str, int] = {}
    for entry in record["steps"].values():
        parts |= entry.get("parameters", {})
    tiles = [(*_headline(each), each["step"]) for each in _headlines(card)]
    tiles.append(("updates", count(facts.updates(card)), _of_steps(card)))
    tiles.append(("run time", duration(record["wall_seconds"]), _interrupted(card)))
    if card.costs.unit != "hours":
        price = None if card.costs.price is None else f"{card.costs.price:.2f} USD"
        tiles.append((card.costs.unit, hours(card.costs.hours), price))
    unreadable = files.count_lines(card.folder.bad_samples)
    if unreadable:
        tiles.append(("unreadable samples", count(unreadable), card.folder.bad_samples.name))
    if parts:
        tiles.append(("parameters", count(sum(parts.values())), f"{len(parts)} parts"))
    choices = [f"stage {values['stage']['name']}", f"model {values['model']['name']}"]
    activation, size = values["model"].get("activation"), values["data"].get("img_size")
    choices += [*([str(activation)] if activation else []), *([f"{size} px"] if size else []), f"seed {values['seed']}"]
    told = card.state.state == "failed" and card.non_finite  # by the warnings, in the same words
    return tag(
        "header",
        tag("p", "Run card", class_="kind"),
        tag("h1", card.name, tag("span", card.state.state, class_=f"state {card.state.state}")),
        tag("p", " · ".join(choices), class_="lead"),
        tag("p", card.state.note, class_="note") if card.state.note and not told else None,
        tag("dl", *(_tile(*each) for each in tiles), class_="tiles"),
    )


def _tile(label: str, value: str, note: str | None) -> Html:
    return tag("div", tag("dt", label), tag("dd", value, tag("small", note) if note else None))


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


def _metrics(card: Card) -> Html | None:
    found = facts.results(card)
    if not found:
        return None
    head = (
        "Metric", "Value", "Step, update", "Weights", "N", "Seed", "Guidance", "Size", "Made by", "Features",
        "Weights' digest", "Reference's digest",
    )  # fmt: skip
    rows = [
        (
            tag("code", each["metric"]),
            quantity(each["value"], each["unit"]),
            f"{each['step'] or UNKNOWN}, {shown(each['update'])}",
            "averaged" if each["ema"] else "raw",
            shown(each["n"]),
            shown(each["seed"]),
            shown(each["guidance"]),
            shown(each.get("img_size")),
            each["implementation"],
            _features(each.get("features")),
            digest(each.get("weights_digest")),
            digest(each.get("reference_digest")),
        )
        for each in found
    ]
    filled = [n for n in range(len(head)) if any(row[n] != UNKNOWN for row in rows)]
    return join(
        [
            table(
                "Each number with what it was measured on and by what; unlike numbers are not to be compared",
                [head[n] for n in filled],
                [[row[n] for n in filled] for row in rows],
                numbers=[filled.index(1)],
                class_="wide",
            ),
            tag("p", "Metrics measured while training read at most N held-out images or prompts.", class_="note"),
        ]
    )


def _features(found: dict[str, Any] | None) -> str | Html:
    return UNKNOWN if not found else join([found["name"], " ", digest(found["digest"])])


def _configuration(card: Card) -> Html:
    rows = [(tag("code", key), shown(there), shown(here)) for key, there, here in card.parent.differences]
    command = " ".join(["python -m fluxflow_exp", *card.record.get("overrides", [])])
    text = yaml.safe_dump(card.values, sort_keys=False, allow_unicode=True)
    return join(
        [
            tag("p", tag("code", command, class_="command")),
            table(f"What differs from {card.parent.name}", ("Key", "There", "Here"), rows)
            if rows
            else tag("p", f"Nothing differs from {card.parent.name}."),
            tag("p", card.parent.note, class_="note") if card.parent.note else None,
            details(f"All {len(card.flat)} keys (config.yaml)", tag("pre", text, tabindex=0)),
        ]
    )


def _plan(card: Card) -> Html:
    columns: dict[str, tuple[str, Callable[[Any], str]]] = {
        "updates": ("Updates", shown),
        "micro_batch": ("Images a pass", shown),
        "seconds_an_update": ("Seconds an update", number),
        "hours": ("Time", lambda value: duration(3600 * value)),
        "peak_gib": ("Peak memory, GiB", number),
        "tflop_an_update": ("TFLOP an update", number),
    }
    found = facts.planned(card)
    known = [key for key in columns if any(value is not None for each in found for value in each[key])]
    rows = [(each["step"], *(_against(each[key], columns[key][1]) for key in known)) for each in found]
    ended = [f"{each['step']} ended early: {each['ended_by']}" for each in found if each["ended_by"]]
    hint = (
        None
        if card.plan
        else "No prediction stands in plan.json: "
        f"python -m fluxflow_exp.plan OVERRIDES --json {card.folder.path}/plan.json"
    )
    return join(
        [
            table(
                "What came, and below it what was planned or predicted",
                ("Step", *(columns[key][0] for key in known)),
                rows,
                numbers=range(1, len(known) + 1),
            ),
            *(tag("p", line, class_="note") for line in [*ended, *([hint] if hint else [])]),
        ]
    )


def _against(pair: tuple[float | None, float | None], show: Callable[[Any], str]) -> Html | str:
    """What came over what was planned, with the ratio where they differ."""
    plan, reality = pair
    came = UNKNOWN if reality is None else show(reality)
    if plan is None:
        return came
    ratio = f", {reality / plan:.2f} of it" if reality is not None and plan and reality != plan else ""
    return join([came, tag("small", f"planned {show(plan)}{ratio}")])


def _cost(card: Card) -> Html:
    cost = card.costs
    total = duration(3600 * cost.hours) if cost.unit == "hours" else f"{hours(cost.hours)} {cost.unit}"
    total += "" if cost.price is None else f", {cost.price:.2f} USD"
    if not cost.parts:
        return tag("p", f"{total}; what they went into was not recorded when this run began.")
    lost = f" {count(cost.lost_updates)} updates were done twice." if cost.lost_updates else ""
    note = (
        "Work lost by a kill is counted up to its last metric row; waiting for data is what reading ahead did not hide."
    )
    return join([tag("p", tag("strong", total), "."), balance_bar(cost), tag("p", f"{note}{lost}", class_="note")])


def _starts(card: Card) -> Html | None:
    starts = card.record.get("starts", [])
    if not starts:
        return tag("p", f"{_interrupted(card)}; times were not recorded when this run began.")
    rows = []
    for start in starts:
        lost = start.get("lost")
        rows.append(
            (
                tag(
                    "time",
                    datetime.fromisoformat(start["time"]).strftime("%Y-%m-%d %H:%M:%S %Z"),
                    datetime=start["time"],
                ),
                f"the one before was {start['after']}" if start["after"] else "first",
                start["machine"],
                shown(start["devices"]),
                duration(start["seconds"]),
                f"{count(lost['updates'])} updates, {duration(lost['seconds'])}" if lost else UNKNOWN,
            )
        )
    head = ("Started", "Why", "Machine", "Devices", "Lasted", "Done again")
    return table("Processes that trained this run", head, rows, numbers=(3, 4, 5), class_="wide")


def _certificates(card: Card) -> Html:
    marks = {True: ("passed", "✓ clean"), False: ("failed", "✗ not clean"), None: ("told", "stated")}
    rows = []
    for each in facts.certificates(card):
        name, mark = marks[each["passed"]]
        rows.append((each["what"], tag("span", mark, class_=f"mark {name}"), each["detail"]))
    made_with = card.record.get("made_with") or {}
    versions = [(name, value) for name, value in made_with.items() if name != "machine"]
    files = [
        (tag("code", name), digest(each["sha256"])) for name, each in card.digests.items() if "samples/" not in name
    ]
    return join(
        [
            table("What vouches for this run", ("", "", "Detail"), rows, class_="text"),
            details("Versions", table("Packages", ("Package", "Version"), versions)) if versions else None,
            details("Digests", table("SHA-256, first 16 digits", ("File", "Digest"), files)) if files else None,
        ]
    )


def footer() -> Html:
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    return tag("footer", tag("p", f"Written {now} by python -m fluxflow_exp.report. This file needs no network."))
