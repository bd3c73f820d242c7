"""`study.html`: a study's answer on one page that opens without a network, in the frame of the run cards."""

from pathlib import Path
from typing import Any

from fluxflow_exp import files
from fluxflow_exp.monitor.metrics import named
from fluxflow_exp.report import page
from fluxflow_exp.report.gallery import Pictures
from fluxflow_exp.study import sentences
from fluxflow_exp.study.answer import Curves, Outcome, StudyAnswer
from fluxflow_exp.study.forest import forest

DIGITS = 5
SINGULAR = {"updates": "update", "images": "image"}


def write(answer: StudyAnswer, folder: Path) -> Path:
    """Write the page into `folder`, where the answer's pictures are. UserError: one of them is missing or damaged."""
    path = folder / "study.html"
    files.write_text(path, made(answer, folder))
    return path


def made(answer: StudyAnswer, folder: Path) -> str:
    """Return the whole file."""
    rated = [arm for arm in answer.arms if arm.learning_rate]
    panels = [_panel(curves) for curves in answer.curves]
    axis = answer.curves[0].axis if answer.curves else "updates"
    originals = bool(answer.pictures and any(row.original for row in answer.pictures.rows))
    return page.write(
        "study.html",
        title=answer.question,
        answer=answer,
        parts={
            "differences": "Differences",
            **({"over-time": "Curves"} if panels else {}),
            **({"pictures": "Pictures side by side"} if answer.pictures else {}),
            "cost": "Cost of each arm",
            **({"learning-rates": "Learning rates"} if rated else {}),
            "limits": "What it does not say",
            "repeat": "Repeat it",
        },
        headline=headline(answer),
        wanted=sentences.wanted(answer.deciding),
        forests=[forest(answer, outcome) for outcome in answer.outcomes],
        values=[_values(outcome) for outcome in answer.outcomes if outcome.values],
        title_of=sentences.title,
        axis=axis,
        curves={"panels": panels, "marks": [], "runs": _looks(answer), "axis": SINGULAR.get(axis, axis)},
        gallery=None,
        pictures=_tiles(answer, folder),
        pictured=sentences.pictured(answer),
        originals=originals,
        rated=rated,
        limits=sentences.limits(answer),
    )


def headline(answer: StudyAnswer) -> list[tuple[str, str]]:
    """The sentences of the answer, each with the kind of its verdict."""
    found = sentences.headline(answer)
    outcome = answer.deciding
    kinds = [sentences.verdict(outcome, sentences.found_of(outcome, arm.name)).kind for arm in answer.arms[1:]]
    kinds = kinds if len(found) >= len(kinds) else ["failed"]
    return list(zip([*["few"] * (len(found) - len(kinds)), *kinds], found, strict=True))


def _values(outcome: Outcome) -> dict[str, Any]:
    """The values of all runs as a table: an arm a row, its mean, then a column for each seed."""
    seeds = sorted({seed for each in outcome.values.values() for seed in each})
    rows = [
        [
            arm,
            sentences.level(sum(own.values()) / len(own) if own else None, outcome),
            *(sentences.level(own.get(seed), outcome) for seed in seeds),
        ]
        for arm, own in outcome.values.items()
    ]
    head = ["Arm", "Mean", *(f"Seed {seed}" for seed in seeds)]
    at = f" at {outcome.at}" if outcome.at else ""
    return {"title": sentences.title(outcome.metric), "at": at, "head": head, "rows": rows}


def _panel(curves: Curves) -> dict[str, Any]:
    """One metric's curves, as `charts.js` reads them."""
    metric = named(curves.metric)
    places = [x for line in curves.lines for x in line.x]
    series = [
        {
            "name": line.arm,
            "x": line.x,
            "y": _short(line.mean),
            **({"low": _short(line.low), "high": _short(line.high)} if line.low and line.high else {}),
        }
        for line in curves.lines
    ]
    ends = {"from": min(places, default=0), "to": max(places, default=1)}
    return {"section": "curves", "title": metric.title, "unit": metric.unit, "log": False, **ends, "series": series}


def _looks(answer: StudyAnswer) -> list[dict[str, Any]]:
    return [{"name": arm.name, "color": place, "dash": place // 8} for place, arm in enumerate(answer.arms)]


def _short(values: list[float]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]


def _tiles(answer: StudyAnswer, folder: Path) -> list[dict[str, Any]]:
    """Rows of pictures: what of, and for each arm its name, the encoded picture, and whether it is a small one."""
    pictures, rows = Pictures(), []
    for row in answer.pictures.rows if answer.pictures else []:
        shown = {"the image": row.original} if row.original else {}
        shown |= {arm.name: row.files[arm.name] for arm in answer.arms if arm.name in row.files}
        tiles = []
        for name, file in shown.items():
            number = pictures.add(folder / file)
            if number is None:
                raise files.DamagedError(f"{folder / file} is missing or damaged. The study's command writes it again")
            tiles.append((name, pictures.urls[number], pictures.small[number]))
        rows.append({"prompt": row.prompt, "tiles": tiles})
    return rows
