"""Build the emoji set that the benchmarks train on: 1,868 captioned images of 256 × 256 pixels, from two npm packages.

    python docs/benchmarks/emoji_set.py data/emoji

needs `npm`. Images: @lobehub/fluent-emoji-3d 1.1.0 (MIT); names, words and groups: emojibase-data 17.0.0 (MIT).
Writes images/, captions.tsv (`file<TAB>label, words`) and labels.tsv (`file<TAB>label`). Variants of skin tone are left
out unless --skin-tones is given (3,388 images then).
"""

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGES = ("@lobehub/fluent-emoji-3d@1.1.0", "emojibase-data@17.0.0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--skin-tones", action="store_true", help="keep the variants of skin tone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folders = [fetch(package, Path(scratch) / str(i)) for i, package in enumerate(PACKAGES)]
        entries = json.loads((folders[1] / "package" / "en" / "data.json").read_text(encoding="utf-8"))
        captions = named(entries, skin_tones=arguments.skin_tones)
        write(arguments.output, folders[0] / "package" / "assets", captions)


def fetch(package: str, folder: Path) -> Path:
    """Download and unpack one npm package."""
    folder.mkdir(parents=True)
    try:
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    except FileNotFoundError:
        sys.exit("npm is not installed; it comes with Node.js")
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


def named(entries: list[dict], *, skin_tones: bool) -> dict[str, tuple[str, str]]:
    """Code points, as `key` writes them → label, label with words."""
    found = {}
    for entry in entries:
        words = [w for w in entry.get("tags", []) if w not in entry["label"].lower()]
        for form in [entry, *(entry.get("skins", []) if skin_tones else [])]:
            found[key(form["hexcode"])] = (form["label"], ", ".join([form["label"], *words]))
    return found


def key(code_points: str) -> str:
    """Four digits or more, lower case, no variation selectors: the two packages do not agree on these."""
    return "-".join(point.zfill(4) for point in code_points.lower().split("-") if point != "fe0f")


def write(output: Path, assets: Path, captions: dict[str, tuple[str, str]]) -> None:
    images = output / "images"
    images.mkdir(parents=True, exist_ok=True)
    present = sorted(p for p in assets.glob("*.webp") if key(p.stem) in captions)
    for path in present:
        (images / path.name).write_bytes(path.read_bytes())
    for name, column in (("labels.tsv", 0), ("captions.tsv", 1)):
        lines = [f"{p.name}\t{captions[key(p.stem)][column]}\n" for p in present]
        (output / name).write_text("".join(lines), encoding="utf-8")
    print(f"{len(present)} images in {images}")


if __name__ == "__main__":
    main()
