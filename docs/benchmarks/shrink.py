"""A smaller copy of a folder of images, which is decoded faster: squares of SIZE pixels as PNG, beside the captions.

    python docs/benchmarks/shrink.py data/emoji data/emoji128 --size 128

IN holds images/ and captions.tsv, as docs/benchmarks/emoji_set.py writes them; names and so the held-out split stay.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="IN")
    parser.add_argument("output", type=Path, metavar="OUT")
    parser.add_argument("--size", type=int, required=True)
    options = parser.parse_args()
    images = options.output / "images"
    images.mkdir(parents=True, exist_ok=True)
    paths = sorted((options.source / "images").iterdir())
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(shrink, folder=images, size=options.size), paths, chunksize=50))
    captions = (options.source / "captions.tsv").read_text(encoding="utf-8")
    (options.output / "captions.tsv").write_text(captions, encoding="utf-8")


def shrink(path: Path, *, folder: Path, size: int) -> None:
    with Image.open(path) as image:
        # A file keeps its name, whatever that ends in: the name decides whether it is held out.
        image.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=None).save(folder / path.name, format="PNG")


if __name__ == "__main__":
    main()
