"""`python -m fluxflow_exp.data.pack`: a folder with captions becomes tar shards for data=webdataset."""

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import webdataset
from rich.progress import track

from fluxflow_exp.config import UserError
from fluxflow_exp.console import fail
from fluxflow_exp.data.image_folder import read_captions
from fluxflow_exp.data.images import Entry
from fluxflow_exp.seeding import derive


def cli() -> None:
    made = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.data.pack",
        description="Pack a folder of images with captions into tar shards (members NUMBER.EXTENSION and NUMBER.txt).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("data_path", type=Path, help="folder of images")
    made.add_argument("captions_file", type=Path, help="file of name<TAB>caption lines")
    made.add_argument("output", type=Path, help="folder for the shards; must be empty or new")
    made.add_argument("--max_megabytes", type=float, default=500.0, help="size of a shard, in MB")
    made.add_argument("--max_samples", type=int, default=10_000, help="samples a shard")
    made.add_argument("--seed", type=int, default=0, help="of the order: neighbours in a folder are often alike")
    arguments = made.parse_args()
    try:
        pack(**vars(arguments))
    except (UserError, OSError) as error:
        fail([str(error)])
        sys.exit(2)


def pack(
    *, data_path: Path, captions_file: Path, output: Path, max_megabytes: float, max_samples: int, seed: int
) -> None:
    """Write `output`/shard-NNNNNN.tar. UserError: unusable input, or images that are missing (all are named)."""
    if max_megabytes <= 0 or max_samples < 1:
        raise UserError(f"--max_megabytes and --max_samples must be positive, not {max_megabytes}, {max_samples}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is not an empty folder; name another")
    try:
        entries, bad = read_captions(captions_file)
    except ValueError as error:
        raise UserError(str(error)) from error
    missing = [entry.id for entry in entries if not (data_path / entry.place).is_file()]
    if missing:
        raise UserError(f"{len(missing)} of {len(entries)} images are not in {data_path}; first: {missing[0]}")
    for name, why in bad:
        print(f"left out: {name}: {why}", file=sys.stderr)
    random.Random(derive(seed, "pack")).shuffle(entries)
    output.mkdir(parents=True, exist_ok=True)
    pattern = str(output / "shard-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=max_samples, maxsize=max_megabytes * 1e6, verbose=0) as writer:
        for sample in track(_samples(entries, data_path), total=len(entries), description="Packing"):
            writer.write(sample)
    shards = sorted(output.glob("shard-*.tar"))
    last = shards[-1].stem.removeprefix("shard-")
    print(f"{len(entries)} samples in {len(shards)} shards. Train on them:")
    print(f"  data=webdataset 'data.urls=\"{output}/shard-{{000000..{last}}}.tar\"'")


def _samples(entries: list[Entry], folder: Path) -> Iterator[dict[str, Any]]:
    for number, entry in enumerate(entries):
        path = folder / entry.place
        extension = path.suffix.lower().lstrip(".")
        yield {"__key__": f"{number:09d}", extension: path.read_bytes(), "txt": entry.caption}


if __name__ == "__main__":
    cli()
