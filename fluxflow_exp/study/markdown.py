"""`study.md`: what the page says, for a repository or a note, with its plots and pictures beside it in pictures/."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from fluxflow_exp import files
from fluxflow_exp.report import text
from fluxflow_exp.study import plots, sentences
from fluxflow_exp.study.answer import Outcome, StudyAnswer
from fluxflow_exp.study.pictures import FOLDER

MARKUP = str.maketrans({each: f"\\{each}" for each in "\\`*_[]<>#|"})


def write(answer: StudyAnswer, folder: Path) -> Path:
    """Write study.md into `folder`, where the answer's pictures are, and its plots beside these."""
    path = folder / "study.md"
    plots.draw(answer, folder / FOLDER)
    files.write_text(path, made(answer))
    return path


def made(answer: StudyAnswer) -> str:
    """Return the whole text."""
    parts = [
        f"# {_plain(answer.question)}",
        *(f"**{_plain(each)}**" for each in sentences.headline(answer)),
        *([f"No more seeds: {_plain(answer.stopped)}."] if answer.stopped else []),
        f"![Differences from {_plain(answer.reference.name)}, with 95 % intervals]({FOLDER}/{plots.FOREST})",
        *(_differences(answer, outcome) for outcome in answer.outcomes),
        *([f"![Means over seeds with their 95 % intervals]({FOLDER}/{plots.CURVES})"] if answer.curves else []),
        *_pictures(answer),
        "## Cost of each arm",
        _costs(answer),
        *_failures(answer),
        *_rates(answer),
        "## What it does not say",
        "\n".join(f"- {_plain(each)}" for each in sentences.limits(answer)),
        "## Repeat it",
        "\n".join(["```bash", *answer.commands, "```"]),
        *([f"All arms: {_codes(answer.base)}"] if answer.base else []),
    ]
    return "\n\n".join(parts) + "\n"


def _differences(answer: StudyAnswer, outcome: Outcome) -> str:
    """One row an arm; the reference has no difference."""
    at = f" at {outcome.at}" if outcome.at else ""
    rows = []
    for arm in answer.arms:
        found = sentences.found_of(outcome, arm.name)
        values = list(outcome.values.get(arm.name, {}).values())
        mean = sentences.level(sum(values) / len(values) if values else None, outcome)
        if arm is answer.reference:
            rows.append([arm.name, mean, "reference", "", "", ""])
        elif found is None:
            rows.append([arm.name, mean, "-", "-", "-", sentences.FAILED.text])
        else:
            judged = sentences.verdict(outcome, found).text
            apart = sentences.signed(found, outcome.metric), sentences.interval(found, outcome.metric)
            rows.append([arm.name, mean, *apart, sentences.seeds(found), judged])
    title = f"{sentences.title(outcome.metric)}{at}"
    return _table([title, "mean", "difference", "95 % interval", "seeds", ""], rows)


def _pictures(answer: StudyAnswer) -> list[str]:
    found = answer.pictures
    if found is None:
        return []
    arms = [arm.name for arm in answer.arms if any(arm.name in row.files for row in found.rows)]
    originals = any(row.original for row in found.rows)
    rows = [
        [
            _plain(row.prompt),
            *([_image(row.original, row.prompt)] if originals else []),
            *(_image(row.files.get(arm), f"{arm}: {row.prompt}") for arm in arms),
        ]
        for row in found.rows
    ]
    head = ["", *(["the image"] if originals else []), *arms]
    return ["## Pictures side by side", _plain(sentences.pictured(answer)), _table(head, rows, escaped=True)]


def _costs(answer: StudyAnswer) -> str:
    rows = []
    for arm in answer.arms:
        size = "-" if arm.parameters is None else text.count(arm.parameters)
        spent = text.duration(3600 * arm.cost.hours) if arm.cost.unit == "hours" else text.hours(arm.cost.hours)
        counts = [size, str(arm.cost.runs), str(len(arm.failures)), spent]
        further = [text.number(arm.cost.tflop), text.number(arm.cost.memory_gib), text.number(arm.cost.price)]
        rows.append([_plain(arm.name), _codes(arm.overrides), *counts, *further])
    unit = "time" if answer.reference.cost.unit == "hours" else answer.reference.cost.unit
    head = ["arm", "what it sets", "parameters", "runs", "failed", unit, "TFLOP a run", "GiB", "USD"]
    known = [n for n in range(len(head)) if n < 6 or any(row[n] != text.UNKNOWN for row in rows)]
    return _table([head[n] for n in known], [[row[n] for n in known] for row in rows], escaped=True)


def _failures(answer: StudyAnswer) -> list[str]:
    said = [f"{arm.name}, seed {each.seed}: {each.reason}" for arm in answer.arms for each in arm.failures]
    return ["Runs that failed:", "\n".join(f"- {_plain(each)}" for each in said)] if said else []


def _rates(answer: StudyAnswer) -> list[str]:
    rows = []
    for arm in answer.arms:
        rate = arm.learning_rate
        if rate:
            tried = "; ".join(f"{key}: {'failed' if v is None else text.number(v)}" for key, v in rate.tried.items())
            rows.append([arm.name, text.number(rate.chosen), tried, sentences.title(rate.metric), rate.data])
    return ["## Learning rates", _table(["arm", "chosen", "tried", "by", "on"], rows)] if rows else []


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, escaped: bool = False) -> str:
    """`escaped`: cells are Markdown already."""
    lines = [head, ["---"] * len(head), *(row if escaped else [_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _image(name: str | None, alt: str) -> str:
    return f"![{_plain(alt)}]({quote(name)})" if name else ""


def _codes(words: Sequence[str]) -> str:
    return " ".join(f"`{word.replace('`', chr(39)).replace('|', '/')}`" for word in words) or "-"


def _plain(said: str) -> str:
    """Text in which nothing is markup, on one line."""
    return " ".join(said.split()).translate(MARKUP)
