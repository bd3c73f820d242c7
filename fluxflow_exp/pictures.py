"""Tensors to pictures: single images, grids with labels."""

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fluxflow_exp.files import naming

MIN_TILE = 96  # pixels; smaller images are enlarged on sheets, pixel by pixel
CAPTION_LINES = 3  # at most, below an image of a sheet


def to_uint8(images: Tensor) -> Tensor:
    """Floats in [-1, 1], clamped, → uint8."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_pil(image: Tensor) -> Image.Image:
    """uint8 (3, height, width) → PIL."""
    return Image.fromarray(image.permute(1, 2, 0).cpu().contiguous().numpy())


def save(image: Tensor, path: Path) -> None:
    """Write one uint8 (3, height, width) image, lossless."""
    save_picture(to_pil(image), path, lossless=True)


def save_picture(picture: Image.Image, path: Path, **options: Any) -> None:
    """Write a picture, whose format `path` tells, with Pillow's `options`."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, **options)


def short_hash(text: str) -> str:
    """Six hexadecimal digits that tell samples of a run apart in file names."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:6]


def principal_components(latents: Tensor, size: tuple[int, int]) -> Tensor:
    """Latents (n, channels, h, w) → uint8 (n, 3, *size): each image's three strongest directions as red, green, blue.

    A component's sign is chosen so that its largest weight is positive, and its range is stretched to [0, 255].
    """
    shown = []
    for latent in latents:
        cells = latent.flatten(1).T
        centred = cells - cells.mean(0)
        _, _, directions = torch.linalg.svd(centred, full_matrices=False)
        directions = torch.cat([directions[:3], directions.new_zeros(max(3 - len(directions), 0), cells.shape[1])])
        strongest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        values = centred @ (directions * strongest.sign()).T
        low, high = values.amin(0), values.amax(0)
        scaled = (values - low) / (high - low).clamp_min(1e-12) * 2 - 1
        shown.append(scaled.T.unflatten(1, latent.shape[1:]))
    return to_uint8(F.interpolate(torch.stack(shown), size, mode="nearest"))


def size_of(size: int | list[int] | None) -> tuple[int, int] | None:
    """(width, height) of a size as a configuration gives it: 512, or [768, 512]. ValueError: neither."""
    if size is None:
        return None
    pair = [size, size] if isinstance(size, int) else list(size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ValueError(f"a size is one number of pixels or [width, height], not {size!r}")
    return pair[0], pair[1]


def size_label(size: int | list[int]) -> str:
    """512 → "512", [768, 512] → "768x512"."""
    return str(size) if isinstance(size, int) else "x".join(map(str, size))


def rows_of(rows: list[Tensor], *, labels: list[str]) -> Image.Image:
    """One labelled row for each uint8 batch (n, 3, height, width)."""
    tiles = [[_tile(image) for image in row] for row in rows]
    width, height = tiles[0][0].size
    margin, gap = 110, 4
    sheet = Image.new("RGB", (margin + len(tiles[0]) * (width + gap), len(tiles) * (height + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for r, (row, label) in enumerate(zip(tiles, labels, strict=True)):
        draw.text((4, r * (height + gap) + height // 2 - 6), label, "black", ImageFont.load_default(13))
        for c, tile in enumerate(row):
            sheet.paste(tile, (margin + c * (width + gap), r * (height + gap)))
    return sheet


def captioned(images: Tensor, captions: list[str], *, columns: int = 8) -> Image.Image:
    """uint8 (n, 3, height, width) in a grid, each over its caption."""
    tiles = [_tile(image) for image in images]
    width, height = tiles[0].size
    font, line = ImageFont.load_default(11), 13
    texts = [_wrap(caption, font, width)[:CAPTION_LINES] for caption in captions]
    text_height = line * max(len(lines) for lines in texts) + 6
    rows = -(-len(tiles) // columns)
    gap = 6
    sheet = Image.new(
        "RGB",
        (min(columns, len(tiles)) * (width + gap), rows * (height + text_height + gap)),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    for i, (tile, lines) in enumerate(zip(tiles, texts, strict=True)):
        left, top = i % columns * (width + gap), i // columns * (height + text_height + gap)
        sheet.paste(tile, (left, top))
        draw.text((left, top + height + 2), "\n".join(lines), "black", font, spacing=1)
    return sheet


def titled(sheet: Image.Image, title: str) -> Image.Image:
    """A sheet below a strip that says what it is, in as many lines as its width asks for."""
    font, line, margin = ImageFont.load_default(12), 15, 4
    lines = _wrap(title, font, sheet.width - 2 * margin)
    strip = line * len(lines) + 2 * margin
    whole = Image.new("RGB", (sheet.width, strip + sheet.height), "white")
    ImageDraw.Draw(whole).text((margin, margin - 1), "\n".join(lines), "black", font, spacing=2)
    whole.paste(sheet, (0, strip))
    return whole


def _tile(image: Tensor) -> Image.Image:
    tile = to_pil(image)
    factor = -(-MIN_TILE // tile.width)
    return tile.resize((tile.width * factor, tile.height * factor), Image.Resampling.NEAREST)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line]
