"""The output of a comparison: a table, `comparison.md`, `comparison.json` and `comparison.png`."""

import html
import re
import shlex
from pathlib import Path
from typing import Any

from fluxflow_exp import files
from fluxflow_exp.compare.curves import BUDGETS
from fluxflow_exp.compare.pairs import Comparison, Group, Pair, plain, reached
from fluxflow_exp.compare.significance import CONFIDENCE, POWER
from fluxflow_exp.console import aligned

CAPTION = re.compile(r'aria-label="([^"]{1,200}, by [^"]{1,200} \((?:higher|lower) is better\))"')  # of a page's table
HEAD = ("group", "seeds", "mean", "± 95 %", "std", "runs ended at")


def table(comparison: Comparison) -> str:
    """Aligned lines for a terminal: groups, a sentence for each pair, and what must be known to read them."""
    rows = [HEAD, *(_cells(group, comparison) for group in comparison.groups)]
    lines = [_title(comparison), *(f"  {line}" for line in aligned(rows, numbers=True)), ""]
    lines += [*(pair.sentence for pair in comparison.pairs), *(f"Note: {note}" for note in comparison.notes)]
    return "\n".join(lines)


def write(comparison: Comparison, folder: Path, words: list[str]) -> list[Path]:
    """Write the three files into `folder`; `words` are those of the command."""
    names = [folder / f"comparison.{suffix}" for suffix in ("md", "json", "png")]
    folder.mkdir(parents=True, exist_ok=True)
    _draw(comparison, names[2])
    files.write_json(names[1], facts(comparison, words))
    files.write_text(names[0], _markdown(comparison, words))
    return names


def outdated(comparison: Comparison, folder: Path) -> str | None:
    """Return the title of the comparison that the page in `folder` shows; None: there is none, or it shows this one."""
    path = folder / "comparison.html"
    if not path.exists():
        return None
    page = html.unescape(path.read_text(encoding="utf-8"))
    if all(pair.sentence in page for pair in comparison.pairs):
        return None
    caption = CAPTION.search(page)
    return caption[1] if caption else "another comparison, or of none"


def _title(comparison: Comparison) -> str:
    question = comparison.question
    direction = "higher" if question.higher else "lower"
    return f"{question.metric} at {reached(comparison)}, by {question.by} ({direction} is better)"


def _cells(group: Group, comparison: Comparison) -> tuple[str, ...]:
    half, deviation = group.half_width, group.deviation
    spreads = [each.deviation for each in comparison.groups if each.deviation]
    scale = min(spreads) if spreads else abs(group.mean) / 1000
    ends = dict.fromkeys(f"{end:,.6g}" for end in (min(group.ends), max(group.ends)))
    return (
        group.name,
        str(len(group.runs)),
        plain(group.mean, scale),
        "-" if half is None else plain(half, scale),
        "-" if deviation is None else plain(deviation, scale),
        " to ".join(ends),
    )


def _markdown(comparison: Comparison, words: list[str]) -> str:
    question = comparison.question
    rows = [HEAD, ("---",) * len(HEAD), *(_cells(group, comparison) for group in comparison.groups)]
    lines = [
        f"# {_title(comparison)}",
        "",
        *(f"- **{pair.sentence}**" for pair in comparison.pairs),
        "",
        *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows),
        "",
        f"![{question.metric} over {BUDGETS[question.budget]}: mean and 95 % interval over seeds](comparison.png)",
        "",
        *(f"- {note}" for note in comparison.notes),
        *([""] if comparison.notes else []),
        "Values lie on the line between the two held-out rows around the budget. Intervals are of Student's t, paired "
        "by seed where both groups have the same seeds, else of Welch's t; several pairs are corrected by Holm's "
        "procedure. Numbers of seeds are for a power of "
        f"{100 * POWER:.0f} % at the measured spread, itself uncertain with few seeds.",
        "",
        "| run | group | seed | value | ended at |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {run.name} | {group.name} | {run.seed} | {value:.6g} | {end:,.6g} |"
            for group in comparison.groups
            for run, value, end in zip(group.runs, group.values, group.ends, strict=True)
        ),
        "",
        "```bash",
        f"python -m fluxflow_exp.compare {shlex.join(words)}",
        "```",
        "",
    ]
    return "\n".join(lines)


def facts(comparison: Comparison, words: list[str]) -> dict[str, Any]:
    """Return the content of `comparison.json`."""
    question = comparison.question
    return {
        "arguments": words,
        "by": question.by,
        "metric": question.metric,
        "better": "higher" if question.higher else "lower",
        "budget": {"kind": question.budget, "unit": BUDGETS[question.budget], "at": comparison.at},
        "confidence": CONFIDENCE,
        "groups": [_group_facts(group, comparison) for group in comparison.groups],
        "pairs": [_pair_facts(pair, comparison) for pair in comparison.pairs],
        "following_keys": comparison.found.following,
        "unlike": [{"kind": each.kind, "key": each.key, "values": each.values} for each in comparison.found.unlike],
        "notes": comparison.notes,
    }


def _group_facts(group: Group, comparison: Comparison) -> dict[str, Any]:
    return {
        "name": group.name,
        "mean": group.mean,
        "half_width": group.half_width,
        "std": group.deviation,
        "runs": [
            {
                "path": run.name,
                "seed": run.seed,
                "value": value,
                "curve": {"budget": comparison.curves[run.name].budget, "values": comparison.curves[run.name].values},
            }
            for run, value in zip(group.runs, group.values, strict=True)
        ],
        "band": {"budget": group.band.budget, "mean": group.band.mean, "half_width": group.band.half_width},
    }


def _pair_facts(pair: Pair, comparison: Comparison) -> dict[str, Any]:
    found, judged = pair.difference, comparison.judged
    interval = None if found.half_width is None else [found.mean - found.half_width, found.mean + found.half_width]
    return {
        "reference": pair.reference,
        "other": pair.other,
        "difference": found.mean,  # other less reference
        "interval": interval,
        "confidence": found.confidence,  # above 0.95 where several pairs are judged together
        "correction": f"Holm, {judged} pairs" if judged > 1 and interval else None,
        "p": found.p,
        "p_adjusted": found.adjusted,
        "distinguishable": found.shown,
        "paired": found.paired,
        "degrees_of_freedom": found.freedom,
        "seeds_needed": pair.needed,
        "sentence": pair.sentence,
    }


def _draw(comparison: Comparison, path: Path) -> None:
    """A line a group, the mean over seeds, in the band of its 95 % interval; the equal budget is marked."""
    from fluxflow_exp.report import figures  # matplotlib: half a second

    with figures.settings():
        figure = figures.Figure(figsize=(8, 4.5))
        canvas = figures.canvas(figure)
        _fill(figure.subplots(), comparison)
        figure.tight_layout()
        files.write_atomically(path, lambda temporary: canvas.print_figure(temporary, dpi=110, format="png"))


def _fill(axes: Any, comparison: Comparison) -> None:
    from fluxflow_exp.report import figures

    question = comparison.question
    # By name, as on the page of several runs, whichever group is the reference.
    colours = {name: f"C{index % 10}" for index, name in enumerate(sorted(group.name for group in comparison.groups))}
    for group in comparison.groups:
        band = group.band
        seeds = f"{len(group.runs)} seed{'s' if len(group.runs) > 1 else ''}"
        axes.plot(
            band.budget,
            band.mean,
            color=colours[group.name],
            label=figures.label(f"{group.name} ({seeds})"),
            linewidth=1.2,
            marker="." if len(band.budget) < 30 else "",
        )
        if band.half_width:
            low, high = ([m + sign * h for m, h in zip(band.mean, band.half_width, strict=True)] for sign in (-1, 1))
            axes.fill_between(band.budget, low, high, color=colours[group.name], alpha=0.2, linewidth=0)
    axes.axvline(comparison.at, color="0.8", linewidth=0.8)
    axes.set_xlabel(
        {"updates": "optimizer updates", "params": "optimizer updates"}.get(question.budget, _unit(question.budget))
    )
    axes.set_ylabel(f"{question.metric}{f' ({question.unit.strip()})' if question.unit else ''}")
    axes.set_title(
        "mean over seeds and its 95 % interval; sentences judge pairs of seeds", fontsize=9, color="0.4", loc="left"
    )
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)


def _unit(budget: str) -> str:
    return {"seconds": "seconds of training"}.get(budget, BUDGETS[budget])
