"""What a check says on a page: one file that needs no network, with small pictures of what is troubled."""

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fluxflow_exp import files
from fluxflow_exp.config.published import shown
from fluxflow_exp.data.check import output, proportions
from fluxflow_exp.data.check.duplicates import Array
from fluxflow_exp.data.check.findings import LOST, Finding, Item
from fluxflow_exp.data.check.survey import Survey
from fluxflow_exp.data.decoding import decoding
from fluxflow_exp.data.transforms import open_rgb
from fluxflow_exp.report import page
from fluxflow_exp.run import failures

SIDE = 160  # pixels of a picture at most
SHOWN = 16  # pictures, or pairs of them, of a kind of trouble
LINES = 12  # the first of a kind that is told in words
RATIOS = (1 / 3, 1 / 2, 2 / 3, 3 / 4, 0.95, 1.05, 4 / 3, 3 / 2, 2, 3)  # width to height, where bars of the chart meet
SIDES = (64, 128, 192, 256, 384, 512, 768, 1024, 2048)  # pixels of the shortest side, where they do


def write(survey: Survey, found: list[Finding], path: Path) -> None:
    """Write the page. UserError: the disk does not take it."""
    folder = shown(str(survey.wanted.folder))
    told = {"captions": output.captions(survey), "training": output.training(survey)}
    parts = {"found": "what was found", **{_id(each.rank): each.rank for each in found}}
    parts |= {key: key for key in ("sizes", *told) if told.get(key, survey.at)}
    made = page.write(
        "check.html",
        title=f"Data check: {folder}",
        folder=folder,
        lead=output.head(survey),
        tiles=_tiles(survey, found),
        parts={key: f"{heading[0].upper()}{heading[1:]}" for key, heading in parts.items()},
        found=[_shown(each, survey.wanted.folder) for each in found],
        told=told,
        sizes=output.sizes(survey),
        histograms=_histograms(survey),
    )
    with failures.output("--output FILE writes the page elsewhere"):
        files.write_text(path, made)


def _id(words: str) -> str:
    return "".join(each if each.isalnum() else "-" for each in words.lower())


def _tiles(survey: Survey, found: list[Finding]) -> list[tuple[str, str, str | None]]:
    """The numbers at the top: label, value, note."""
    lost = sum(len(each.items) for each in found if each.rank == LOST)
    copies = {name for names in survey.groups for name in names[1:]}
    parted = sum(name in survey.held_out for names in survey.parted() for name in names)
    tiles = [
        ("pictures", f"{len(survey.names):,}", f"{len(survey.bare):,} more without a caption" if survey.bare else None),
        ("captions", f"{len(survey.said):,}", None),
        ("lost to training", f"{lost:,}", "pictures or captions"),
        ("copies", f"{len(copies):,}", f"{parted:,} across the split"),
    ]
    if len(survey.at):
        squares = proportions.shapes_of(survey.sizes, survey.wanted.img_size, 1.0)
        tiles.append(("enlarged", f"{squares.enlarged:.1%}", f"squares of {survey.wanted.img_size} px"))
    return tiles


def _shown(finding: Finding, folder: Path) -> dict[str, Any]:
    """A kind of trouble with some examples; those that are pictures have their addresses."""
    items = spread(finding.items, SHOWN) if finding.items[0].pictures else finding.items[:LINES]
    rows = [_item(each, folder) for each in items]
    rows = [each for each in rows if each["urls"]] or rows  # those of a strip are pictures, unless none can be read
    return {
        "id": _id(finding.title),
        "section": _id(finding.rank),
        "rank": finding.rank,
        "lost": finding.rank == LOST,
        "title": finding.title,
        "advice": finding.advice,
        "count": len(finding.items),
        "rows": rows,
    }


def spread(items: list[Item], most: int) -> list[Item]:
    """At most so many, at even distances, the first and the last among them: the nearest copies and the furthest."""
    last = len(items) - 1
    return items if last < most else [items[round(i * last / (most - 1))] for i in range(most)]


def _item(item: Item, folder: Path) -> dict[str, Any]:
    urls = [url for name in item.pictures if (url := _url(folder / name))]
    return {
        "name": shown(item.name),
        "detail": shown(item.detail),
        "urls": urls if len(urls) == len(item.pictures) else [],
    }


def _url(path: Path) -> str | None:
    """A small copy of a picture; None: it cannot be read."""
    buffer = BytesIO()
    try:
        with decoding():
            made = open_rgb(path, at_least=SIDE)
            made.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            made.save(buffer, "WEBP", quality=80, method=2)
    except OSError:
        return None
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _histograms(survey: Survey) -> dict[str, list[tuple[str, int, float]]]:
    """Caption of a table → its rows: what a bar is of, how many pictures, its length in per cent."""
    sizes = survey.sizes
    if not len(sizes):
        return {}
    img_size = proportions.fitting(sizes, survey.wanted.img_size)
    best = proportions.proposed(sizes, img_size)
    most = max(best.counts.values())
    by_width = sorted(best.counts.items(), key=lambda each: each[0][1])
    return {
        "Width to height, from": bars(sizes[:, 1] / sizes[:, 0], RATIOS, [f"{each:.2f}:1" for each in RATIOS]),
        "Shortest side, from": bars(sizes.min(1), SIDES, [f"{each} px" for each in SIDES]),
        f"Shapes of {proportions.overrides(best, img_size)}": [
            (f"{width} x {height} px", count, round(100 * count / most, 1)) for (height, width), count in by_width
        ],
    }


def bars(values: Array, edges: tuple[float, ...], names: list[str]) -> list[tuple[str, int, float]]:
    """Rows of a table: where a bar begins, how many values it has, its length in per cent of the longest."""
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1).tolist()
    rows = list(zip([f"below {names[0]}", *names], counts, strict=True))
    return [(name, count, round(100 * count / max(counts), 1)) for name, count in rows if count]
