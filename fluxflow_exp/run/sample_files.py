"""Names of pictures in a run's `samples/`: `<step>_<index>_<when>_<hash><row>.webp`, or `…_grid.webp` for a sheet."""

import re
from glob import escape
from pathlib import Path

# file suffix → label of its row on the sheet
ROWS = {
    "-original": "original",
    "-nr_o": "reconstruction",
    "_ns_o": "sampled",
    "-ctx": "latent (PCA)",
    "-nc": "no context",
}
GRID = "_grid.webp"


def tiles_of(sheet: Path, order: list[str]) -> dict[str, list[Path]]:
    """Row label → single pictures of a sheet `<stem>_grid.webp` of reconstructions.

    Each row has them in the `order` of their hashes; of one that knows none (of an earlier version) by name.
    """
    stem = sheet.name.removesuffix(GRID)
    single = re.compile(re.escape(stem) + r"_(?P<hash>[0-9a-f]{6})(?P<row>[-_]\w+)\.webp")
    places = {each: place for place, each in reversed([*enumerate(order)])}
    found: dict[str, list[Path]] = {label: [] for label in ROWS.values()}
    matches = filter(None, map(single.fullmatch, sorted(path.name for path in sheet.parent.glob(f"{escape(stem)}_*"))))
    for match in sorted(matches, key=lambda match: places.get(match["hash"], len(places))):
        if match["row"] in ROWS:
            found[ROWS[match["row"]]].append(sheet.with_name(match[0]))
    return {label: tiles for label, tiles in found.items() if tiles}
