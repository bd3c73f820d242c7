"""Draw held-out cells of the emoji in eight styles, each real one beside what a model draws for its caption.

    python docs/benchmarks/styles_grid.py outputs/styles/weights/final.safetensors data/styles grid.webp

takes 48 of them at even distances in held_out.tsv, so that none is chosen by its looks.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from fluxflow_exp.models.text_to_image import TextToImage

ROW, GAP = 8, 2  # pairs a row; pixels between pictures


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("set", type=Path, help="folder that styles_set.py wrote")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args(arguments)
    lines = (options.set / "held_out.tsv").read_text(encoding="utf-8").split("\n")
    cells = [line.split("\t") for line in lines if line]
    picked = cells[:: max(1, len(cells) // options.count)][: options.count]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = TextToImage.load(options.weights, device=device)
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        drawn = model(
            [caption for _, caption in picked],
            guidance_scale=options.guidance,
            steps=options.steps,
            seed=options.seed,
        )
    side = drawn[0].width + GAP
    rows = -(-len(picked) // ROW)
    grid = Image.new("RGB", (2 * ROW * side + GAP, rows * side + GAP))
    for index, ((name, caption), picture) in enumerate(zip(picked, drawn, strict=True)):
        left, top = 2 * (index % ROW) * side + GAP, index // ROW * side + GAP
        real = Image.open(options.set / "images" / name).convert("RGB").resize(picture.size)
        grid.paste(real, (left, top))
        grid.paste(picture, (left + side, top))
        print(f"row {index // ROW + 1}, pair {index % ROW + 1}: {caption}")
    grid.save(options.picture, quality=90)


if __name__ == "__main__":
    main()
