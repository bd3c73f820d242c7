"""Folders of pictures with captions, and the batches of data sets."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from fluxflow_exp.data.image_folder import ImageFolder
from fluxflow_exp.data.loader import Batch, load_batches


def write_folder(folder: Path, pictures: Iterable[Image.Image]) -> list[str]:
    """`images/0.png`, … with captions "picture 0", …; the overrides that read them."""
    images, captions = folder / "images", folder / "captions.tsv"
    images.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        picture.save(images / f"{number}.png")
    captions.write_text("".join(f"{i}.png\tpicture {i}\n" for i in range(number + 1)), encoding="utf-8")
    return ["data=image_folder", f"data.data_path={images}", f"data.captions_file={captions}"]


def noise(n: int, size: tuple[int, int]) -> list[Image.Image]:
    return [Image.effect_noise(size, 50 + i).convert("RGB") for i in range(n)]


def image_folder(folder: Path, *, img_size: int = 16, **options: Any) -> ImageFolder:
    places = {"data_path": str(folder / "images"), "captions_file": str(folder / "captions.tsv")}
    return ImageFolder(**{**places, "img_size": img_size, **options})


def batches(source: Any, last: int, *, first: int = 0, size: int = 4, workers: int = 0, **ranks: int) -> list[Batch]:
    return list(
        load_batches(
            source, seed=3, batch_size=size, first_update=first, last_update=last, num_workers=workers,
            pin_memory=False, **ranks,
        )
    )  # fmt: skip
