"""Images a second and core from JPEG files to uint8 tensors: ours beside a plain Pillow + torchvision loader.

    python docs/benchmarks/input.py --json input.json
    python docs/benchmarks/input.py --folder PHOTOS

Without a folder it draws photo-like JPEGs (colour gradients with noise of several scales, quality 90). The loaders
take turns, so that what else runs on the machine slows each alike; ratios are taken within a turn.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image, features
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

from fluxflow_exp.data import transforms
from fluxflow_exp.data.images import Entry, Images, ImageTransform, load
from fluxflow_exp.data.loader import load_batches

DRAWN = {"1600x1200": (1600, 1200), "640x480": (640, 480)}
SIZES = (256, 512, 1024)
BATCH = 8
OURS = "ours"
PLAIN = {"plain": InterpolationMode.BILINEAR, "plain, Lanczos": InterpolationMode.LANCZOS}
Spread = tuple[float, float, float]  # median, smallest, largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="images to read instead of drawn ones")
    parser.add_argument("--images", type=int, default=16, help="images of a set")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        sets = {options.folder.name: found(options.folder, options.images)} if options.folder else {}
        for name, size in ({} if options.folder else DRAWN).items():
            sets[name] = [
                save(photo(*size, seed), Path(scratch) / f"{name}-{seed}.jpg") for seed in range(options.images)
            ]
        rows = [row for name, files in sets.items() for row in measured(name, files, options)]
    facts = {
        "cpu": cpu(),
        "python packages": {m.__name__: m.__version__ for m in (torch, torchvision, PIL, np)},
        "libjpeg-turbo": features.version_feature("libjpeg_turbo"),
        "lanczos of torch": transforms._VECTORISED,
        "images": options.images,
        "repeats": options.repeats,
    }
    print(f"\n{facts}\n\n{table(rows)}")
    if options.json:
        lines = ",\n  ".join(json.dumps(row) for row in rows)
        options.json.write_text(f'{json.dumps(facts, indent=1)[:-2]},\n "rows": [\n  {lines}\n ]\n}}\n')


def measured(name: str, files: list[Path], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each size, in this process and with workers."""
    for size in SIZES:
        for workers in (0, options.workers):
            prepare = in_workers(workers) if workers else in_process
            loaders = {OURS: prepare(files, size, None)}
            loaders |= {label: prepare(files, size, mode) for label, mode in PLAIN.items()}
            rates = taking_turns(loaders, options.repeats)
            row: dict[str, Any] = {"set": name, "size": size, "workers": workers}
            for label, values in rates.items():
                row[label] = spread([rate / max(workers, 1) for rate in values])
            for label in PLAIN:
                row[f"ours / {label}"] = spread([a / b for a, b in zip(rates[OURS], rates[label], strict=True)])
            yield row
            print(row, flush=True)


def taking_turns(loaders: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Images a second of each loader in each turn, after one that does not count."""
    rates: dict[str, list[float]] = {label: [] for label in loaders}
    for turn in range(repeats + 1):
        for label in random.Random(turn).sample(list(loaders), len(loaders)):
            rate = loaders[label]()
            if turn:
                rates[label].append(rate)
    return rates


def in_process(files: list[Path], size: int, mode: InterpolationMode | None) -> Callable[[], float]:
    read = partial(ours, size=size) if mode is None else partial(plain, transform=usual(size, mode))

    def run() -> float:
        started = time.perf_counter()
        for file in files:
            read(file)
        return len(files) / (time.perf_counter() - started)

    return run


def in_workers(workers: int) -> Callable[..., Callable[[], float]]:
    """Batches through a DataLoader, once each worker has given its first."""

    def prepare(files: list[Path], size: int, mode: InterpolationMode | None) -> Callable[[], float]:
        updates = 7 * workers

        def run() -> float:
            batches = (
                our_batches(files, size, workers, updates)
                if mode is None
                else plain_batches(files, size, mode, workers, updates)
            )
            for _ in range(workers):
                next(batches)
            started = time.perf_counter()
            count = sum(1 for _ in batches)
            return count * BATCH / (time.perf_counter() - started)

        return run

    return prepare


def ours(file: Path, *, size: int) -> Tensor:
    return load(file.name, "", lambda: file, ImageTransform(size), (size, size), random.Random(0)).image


def plain(file: Path, *, transform: Callable[[Image.Image], Tensor]) -> Tensor:
    return transform(Image.open(file).convert("RGB"))


def usual(size: int, mode: InterpolationMode) -> Callable[[Image.Image], Tensor]:
    chain: Callable[[Image.Image], Tensor] = Compose([Resize(size, mode), CenterCrop(size), PILToTensor()])
    return chain


def our_batches(files: list[Path], size: int, workers: int, updates: int) -> Iterator[Any]:
    source = Images([Entry(file.name, "", file) for file in files], Path, ImageTransform(size))
    return load_batches(
        source, seed=0, batch_size=BATCH, first_update=0, last_update=updates, num_workers=workers, pin_memory=False
    )


class PlainSet(Dataset[Tensor]):
    def __init__(self, files: list[Path], size: int, mode: InterpolationMode, length: int) -> None:
        self.files, self.transform, self.length = files, usual(size, mode), length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        return plain(self.files[index % len(self.files)], transform=self.transform)


def plain_batches(files: list[Path], size: int, mode: InterpolationMode, workers: int, updates: int) -> Iterator[Any]:
    return iter(DataLoader(PlainSet(files, size, mode, updates * BATCH), batch_size=BATCH, num_workers=workers))


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Waves of colour under noise of four scales."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.cos(6 * (x * rng.normal() + y * rng.normal() + rng.random())) for _ in range(3)]
    pixels = 128 + 40 * np.stack(waves, -1)
    for cell, strength in ((64, 40), (16, 20), (4, 12), (1, 3)):
        for channel in range(3):
            noise = rng.normal(size=(height // cell + 2, width // cell + 2)).astype(np.float32)
            grown = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
            pixels[..., channel] += strength * np.asarray(grown)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def save(image: Image.Image, path: Path) -> Path:
    image.save(path, quality=90)
    return path


def found(folder: Path, count: int) -> list[Path]:
    kinds = {".jpg", ".jpeg", ".png", ".webp"}
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in kinds)[:count]
    if len(files) < BATCH:
        raise SystemExit(f"{folder} has {len(files)} images; at least {BATCH} are needed")
    return files


def spread(values: list[float]) -> Spread:
    median, smallest, largest = (float(f"{v:.4g}") for v in (statistics.median(values), min(values), max(values)))
    return median, smallest, largest


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; median (smallest to largest)."""
    ratios = [f"ours / {label}" for label in PLAIN]
    lines = ["| images | to | workers | " + " | ".join([OURS, *PLAIN, *ratios]) + " |"]
    lines.append("|---" * (3 + len(PLAIN) + 1 + len(ratios)) + "|")
    for row in rows:
        rates = ["{:.0f} ({:.0f} to {:.0f})".format(*row[label]) for label in (OURS, *PLAIN)]
        times = ["{:.2f} ({:.2f} to {:.2f})".format(*row[label]) for label in ratios]
        lines.append(
            f"| {row['set']} | {row['size']} | {row['workers'] or 'none'} | " + " | ".join(rates + times) + " |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
