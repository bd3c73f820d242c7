"""Build a set of emoji in eight styles: 13,199 captioned pictures, 1,036 of them held out by cell (subject × style).

    pip install resvg_py
    python docs/benchmarks/styles_set.py data/styles

needs `npm`, or with --tarballs FOLDER the eight packages as `npm pack @iconify-json/NAME@VERSION` leaves them.
Writes images/, captions.tsv and held_out.tsv (`file<TAB>subject, style`), and LICENCES: whose the drawings are, and on
which terms. Held out is a tenth of the cells, by hash, whose subject is left in at least three other styles: what such
a prompt asks for was never seen, and its subject and its style were. Variants of skin tone are left out.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple


class Style(NamedTuple):
    words: str  # as captions have it
    version: str  # of the package
    sha256: str  # of its tarball


STYLES = {
    "emojione": Style("emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
    "emojione-v1": Style("old emojione", "1.2.3", "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3"),
    "fluent-emoji": Style("fluent", "1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b"),
    "fluent-emoji-flat": Style(
        "flat fluent", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"
    ),
    "noto": Style("noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "noto-v1": Style("old noto", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
    "openmoji": Style("openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"),
    "twemoji": Style("twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
}
SKIN_TONE = re.compile(r"skin-tone|-(light|medium-light|medium|medium-dark|dark)(-|$)")
ONE_IN = 10  # cells is held out,
FEWEST = 3  # if so many of its subject's are left to train on
LICENCE = """{title} ({package} {version} on npm)
  author:  {author[name]}, {author[url]}
  licence: {license[title]} ({license[spdx]}), {license[url]}
  changed: drawn as PNG of {size} x {size} pixels on white
"""

Cell = tuple[str, str]  # subject, style: the names of an icon and of its package


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--size", type=int, default=128, metavar="PIXELS", help="a side (default 128)")
    parser.add_argument("--tarballs", type=Path, metavar="FOLDER", help="with the packages, instead of npm")
    options = parser.parse_args(arguments)
    try:
        import resvg_py  # noqa: F401
    except ImportError:
        sys.exit("resvg_py is not installed: pip install resvg_py")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.tarballs or fetch(Path(scratch))
        packages = {name: opened(folder, name) for name in STYLES}
    cells = {(subject, name): svg for name, package in packages.items() for subject, svg in drawings(package).items()}
    write(options.output, cells, size=options.size)
    licences = [licence(package, name, options.size) for name, package in packages.items()]
    (options.output / "LICENCES").write_text("\n".join(licences), encoding="utf-8")


def fetch(folder: Path) -> Path:
    """Download all packages from npm."""
    names = [f"@iconify-json/{name}@{style.version}" for name, style in STYLES.items()]
    try:
        subprocess.run(["npm", "pack", "--silent", *names], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    except FileNotFoundError:
        sys.exit("npm is not installed; it comes with Node.js")
    except subprocess.CalledProcessError as error:
        sys.exit(f"npm pack ended with {error.returncode}; --tarballs FOLDER takes packages from elsewhere")
    return folder


def opened(folder: Path, name: str) -> dict[str, Any]:
    """The icons and what is said of them, of a package whose tarball is the expected one."""
    path = folder / f"iconify-json-{name}-{STYLES[name].version}.tgz"
    if not path.is_file():
        sys.exit(f"there is no {path}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != STYLES[name].sha256:
        sys.exit(f"{path} is another file: its SHA-256 is {found}, and {STYLES[name].sha256} is expected")
    with tarfile.open(path) as tar:
        return {part: json.load(tar.extractfile(f"package/{part}.json")) for part in ("icons", "info")}  # type: ignore[arg-type]


def drawings(package: dict[str, Any]) -> dict[str, str]:
    """Subject → SVG of its icon, a square with the icon in the middle."""
    icons = package["icons"]
    found = {}
    for subject, icon in icons["icons"].items():
        if SKIN_TONE.search(subject) or icon.get("hidden"):
            continue
        left, top, width, height = (
            icon.get(key, icons.get(key, other))
            for key, other in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        )
        side = max(width, height)
        box = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
        names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        found[subject] = f'<svg {names} viewBox="{box}">{icon["body"]}</svg>'
    return found


def held_out(cells: set[Cell]) -> set[Cell]:
    """A tenth of the cells, by hash, each with its subject in at least three others that are trained on."""
    styles = Counter(subject for subject, _ in cells)
    drawn = {c for c in cells if styles[c[0]] > FEWEST and _hash(c) % ONE_IN == 0}
    left = Counter(subject for subject, _ in cells - drawn)
    return {cell for cell in drawn if left[cell[0]] >= FEWEST}


def write(output: Path, cells: dict[Cell, str], *, size: int) -> None:
    """Draw all cells, and write the names and captions of those that could be drawn."""
    (output / "images").mkdir(parents=True, exist_ok=True)
    ordered, apart = sorted(cells), held_out(set(cells))
    names = {(subject, style): f"{style}__{subject}.png" for subject, style in ordered}
    jobs = [(cells[cell], output / "images" / names[cell], size) for cell in ordered]
    with ProcessPoolExecutor() as pool:
        drawn = [c for c, done in zip(ordered, pool.map(draw, jobs, chunksize=64), strict=True) if done]
    for file, wanted in (("captions.tsv", set(drawn) - apart), ("held_out.tsv", set(drawn) & apart)):
        lines = [f"{names[cell]}\t{caption(cell)}\n" for cell in drawn if cell in wanted]
        (output / file).write_text("".join(lines), encoding="utf-8")
        print(f"{len(lines)} lines in {output / file}")
    for cell in set(ordered) - set(drawn):
        print(f"left out, it cannot be drawn: {names[cell]}")


def caption(cell: Cell) -> str:
    subject, style = cell
    return f"{subject.replace('-', ' ')}, {STYLES[style].words} style"


def draw(job: tuple[str, Path, int]) -> bool:
    """Write an SVG as a square PNG on white; whether that is possible."""
    import resvg_py

    svg, path, size = job
    try:
        path.write_bytes(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="white")))
    except ValueError:
        return False
    return True


def licence(package: dict[str, Any], name: str, size: int) -> str:
    """Whose the drawings of a package are, and on which terms."""
    info = package["info"]
    return LICENCE.format(
        title=info["name"], package=f"@iconify-json/{name}", version=STYLES[name].version, author=info["author"],
        license=info["license"], size=size,
    )  # fmt: skip


def _hash(cell: Cell) -> int:
    return int(hashlib.sha256("|".join(cell).encode()).hexdigest(), 16)


if __name__ == "__main__":
    main()
