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


def tiles_of(sheet: Path) -> dict[str, list[Path]]:
    """Row label → single pictures of a sheet `<stem>_grid.webp` of reconstructions; each row has them in one order."""
    stem = sheet.name.removesuffix(GRID)
    single = re.compile(re.escape(stem) + r"_[0-9a-f]{6}(?P<row>[-_]\w+)\.webp")
    found: dict[str, list[Path]] = {label: [] for label in ROWS.values()}
    for path in sorted(sheet.parent.glob(f"{escape(stem)}_*.webp")):
        match = single.fullmatch(path.name)
        if match and match["row"] in ROWS:
            found[ROWS[match["row"]]].append(path)
    return {label: tiles for label, tiles in found.items() if tiles}
