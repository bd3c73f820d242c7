"""Draw the same held-out prompts by several models of the quickstart's drawings, a row each, with the same noise.

python docs/benchmarks/expected.py rows.png outputs/A/weights/final.safetensors outputs/B/weights/final.safetensors
"""

import argparse
from pathlib import Path

from PIL import Image

from fluxflow_exp.data.shapes import Shapes
from fluxflow_exp.models.text_to_image import TextToImage

GAP, TIMES = 2, 2  # pixels between pictures; how much larger they are shown


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    captions = Shapes().prompts[: options.count]
    print("\n".join(captions))
    grid = None
    for row, path in enumerate(options.weights):
        model = TextToImage.load(path)
        drawn = model(captions, guidance_scale=options.guidance, steps=options.steps, seed=options.seed)
        side = TIMES * drawn[0].width + GAP
        grid = grid or Image.new("RGB", (side * len(captions) + GAP, side * len(options.weights) + GAP))
        for column, picture in enumerate(drawn):
            shown = picture.resize((side - GAP, side - GAP), Image.Resampling.NEAREST)
            grid.paste(shown, (column * side + GAP, row * side + GAP))
    assert grid
    grid.save(options.picture)


if __name__ == "__main__":
    main()
