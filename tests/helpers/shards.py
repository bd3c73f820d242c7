"""Shards of numbered pictures."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

from fluxflow_exp.data.webdataset import WebDataset

SIZES = (9, 4, 17, 1, 12, 6, 11)


def image(i: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (i % 256, 0, 0)).save(file, "PNG")
    return file.getvalue()


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def write_shards(folder: Path, *, as_json: bool = False, several: bool = False) -> int:
    """Seven shards of uneven size; returns how many samples. `several`: captions of each, in a JSON."""
    number = 0
    for shard, size in enumerate(SIZES):
        with tarfile.open(folder / f"train-{shard:03d}.tar", "w") as archive:
            for _ in range(size):
                add(archive, f"{number:05d}.png", image(number))
                if several:
                    texts = [f"picture {number}", f"long {number}", f"picture\n{number}"]
                    fields = {"prompt": texts, "caption_weight": [1, 6, 1]}
                    add(archive, f"{number:05d}.json", json.dumps(fields).encode())
                elif as_json:
                    add(archive, f"{number:05d}.json", json.dumps({"prompt": f"picture\n{number}"}).encode())
                else:
                    add(archive, f"{number:05d}.txt", f"picture {number}".encode())
                number += 1
    return number


def build(folder: Path, **options: Any) -> WebDataset:
    return WebDataset(**{"urls": f"{folder}/train-{{000..006}}.tar", "img_size": 16, **options})
