"""The pictures of runs over time, as data inside the page: what a slider moves through."""

import base64
import hashlib
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from fluxflow_exp.data.decoding import opened
from fluxflow_exp.report.panels import Track
from fluxflow_exp.run.sample_files import GRID, tiles_of

BYTES = 6_000_000  # of encoded pictures in a page; base64 makes them a third larger
SIDE = 224  # pixels; larger pictures are made smaller
KEPT = 12_000  # bytes; files that are smaller, in both ways, are taken as they are
FRAMES, TILES = 24, 8  # moments of a page, pictures in a row
PIXELATED = 64  # pixels; smaller pictures are enlarged without smoothing


@dataclass
class Frame:
    """The pictures that were drawn after one update of a step."""

    step: str
    update: int
    epoch: int
    rows: list[tuple[str, list[tuple[Path, str]]]]  # label; picture, what it shows
    drawn: str = ""  # with what; nothing is known of an earlier version's


@dataclass
class Pictures:
    """Encoded pictures, each once."""

    urls: list[str] = field(default_factory=list)
    small: list[bool] = field(default_factory=list)
    bytes: int = 0
    _known: dict[str, int] = field(default_factory=dict)

    def add(self, path: Path) -> int | None:
        """The number of the picture in `path`; None: it is damaged."""
        try:
            raw = path.read_bytes()
            key = hashlib.sha256(raw).hexdigest()
            if key in self._known:
                return self._known[key]
            with opened(BytesIO(raw)) as image:
                small = max(image.size) <= PIXELATED
                if len(raw) > KEPT or max(image.size) > SIDE:
                    raw = smaller(image)
        except OSError:
            return None
        self._known[key] = len(self.urls)
        self.urls.append(f"data:image/webp;base64,{base64.b64encode(raw).decode()}")
        self.small.append(small)
        self.bytes += len(raw)
        return self._known[key]


def frames(track: Track, samples: Path) -> list[Frame]:
    """All moments of a run at which pictures were made and are still there, in order."""
    found: dict[tuple[str, int], Frame] = {}
    for step, rows in track.steps.items():
        for row in rows:
            drawn = _drawn(samples, row.get("pictures", {}), row.get("tiles", []))
            if drawn:
                frame = Frame(step, row["global_step"], row["epoch"], drawn, row.get("drawn", ""))
                there = found.setdefault((step, frame.update), frame)
                if there is not frame:  # one row for each size of sample
                    there.rows += drawn
    return list(found.values())


def gallery(runs: dict[str, list[Frame]], order: list[str], *, tiles: int = TILES) -> dict[str, Any] | None:
    """The JSON that `gallery.js` reads, with so many moments that the page stays small; None: there are no pictures.

    `order`: the names of the steps. Each run shows, at a moment of any of them, its last pictures of that step until
    then.
    """
    moments = sorted({(order.index(f.step), f.update) for each in runs.values() for f in each})
    if not moments:
        return None
    shown = _spread(moments, FRAMES)
    while True:
        made = _made(runs, order, shown, tiles)
        if made[1].bytes <= BYTES or len(shown) <= 2:
            break
        shown = _spread(shown, max(len(shown) // 2, 2))
    keys, pictures, members = made
    return {"images": pictures.urls, "small": pictures.small, "keys": keys, "runs": members, "all": len(moments)}


def copies(evaluations: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What evaluations in `folder` say of copies, each with its closest pairs as a row that holds its pictures."""
    found = []
    for each in evaluations:
        nearest = each.get("nearest")
        if not nearest:
            continue
        pictures, pairs = Pictures(), []
        for pair in nearest["pairs"]:
            names = [pair[key] for key in ("sample", "training")]
            if any(Path(name).name != name for name in names):
                continue  # a record is no reason to show another folder's pictures
            numbers = [pictures.add(folder / name) for name in names]
            shown = [(pictures.urls[n], pictures.small[n]) for n in numbers if n is not None]
            pairs += [{**pair, "pictures": shown}] if len(shown) == len(names) else []
        weights = f"{'averaged' if each['ema'] else 'raw'} weights, guidance {each['guidance']:g}"
        found.append({"of": f"Step {each['step']}, {weights}", "said": nearest["said"], "pairs": pairs})
    return found


def _made(
    runs: dict[str, list[Frame]], order: list[str], shown: list[tuple[int, int]], tiles: int
) -> tuple[list[dict[str, Any]], Pictures, list[dict[str, Any]]]:
    pictures = Pictures()
    members: list[dict[str, Any]] = []
    epochs = {(order.index(f.step), f.update): f.epoch for each in runs.values() for f in each}
    for name, mine in runs.items():
        numbers: list[int | None] = []
        used: dict[int, dict[str, Any]] = {}
        for step, update in shown:
            until = [n for n, f in enumerate(mine) if order.index(f.step) == step and f.update <= update]
            numbers.append(until[-1] if until else None)
            if until and until[-1] not in used:
                used[until[-1]] = _frame(mine[until[-1]], pictures, tiles)
        places = {number: place for place, number in enumerate(used)}
        at = [None if number is None else places[number] for number in numbers]
        members.append({"name": name, "at": at, "frames": list(used.values())})
    keys = [{"step": order[step], "update": update, "epoch": epochs[step, update]} for step, update in shown]
    return keys, pictures, members


def _frame(frame: Frame, pictures: Pictures, tiles: int) -> dict[str, Any]:
    rows = []
    for label, items in frame.rows:
        added = [(pictures.add(path), caption) for path, caption in items[:tiles]]
        shown = [{"i": number, "c": caption} for number, caption in added if number is not None]
        rows.append({"label": label, "items": shown})
    return {"step": frame.step, "update": frame.update, "drawn": frame.drawn, "rows": rows}


def _drawn(samples: Path, shown: dict[str, str], order: list[str]) -> list[tuple[str, list[tuple[Path, str]]]]:
    """Rows of pictures: those of a sheet of reconstructions one by one, else one row of pictures with captions."""
    rows: list[tuple[str, list[tuple[Path, str]]]] = []
    single: list[tuple[Path, str]] = []
    for name, caption in shown.items():
        if Path(name).name != name:
            continue  # a row is no reason to show another folder's pictures
        path = samples / name
        tiles = tiles_of(path, order) if name.endswith(GRID) else {}
        rows += [(label, [(tile, "") for tile in paths]) for label, paths in tiles.items()]
        if not tiles and path.is_file():
            single.append((path, caption))
    return [*rows, *([("", single)] if single else [])]


def _spread(moments: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """`count` of the moments at even distances, the first and the last among them."""
    if len(moments) <= count:
        return moments
    last = len(moments) - 1
    return [moments[round(i * last / (count - 1))] for i in range(count)]


def smaller(image: Image.Image) -> bytes:
    """WebP of at most SIDE pixels a side."""
    made = image.convert("RGB")
    made.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    made.save(buffer, "WEBP", quality=82, method=2)
    return buffer.getvalue()
