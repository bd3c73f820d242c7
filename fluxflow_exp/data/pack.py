"""`python -m fluxflow_exp.data.pack`: a folder with captions becomes tar shards for data=webdataset."""

from __future__ import annotations

import argparse
import os
import random
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image
from rich.progress import track

from fluxflow_exp.data import shard_index
from fluxflow_exp.data.caption_choice import WEIGHT, heaviest
from fluxflow_exp.data.decoding import EXTENSIONS, opened, reason
from fluxflow_exp.data.protocols import Bad, Choices
from fluxflow_exp.errors import UserError, counted
from fluxflow_exp.files import naming
from fluxflow_exp.run import failures

if TYPE_CHECKING:
    from fluxflow_exp.data.images import Entry

CAPTION = "caption"  # the field of a JSON that holds several
SCRATCH = "tmp-pack"  # in the output folder, while it is filled


@failures.command
def cli() -> None:
    made = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.data.pack",
        description="Pack a folder of images with captions into tar shards (members NUMBER.EXTENSION and NUMBER.txt; "
        "where pictures have several captions, NUMBER.json with all of them, too).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("data_path", type=Path, help="folder of images")
    made.add_argument("captions_file", help="file of captions, or sidecar, as of data=image_folder")
    made.add_argument("output", type=Path, help="folder for the shards; must be empty or new")
    made.add_argument("--max_megabytes", type=float, default=500.0, help="size of a shard, in MB")
    made.add_argument("--max_samples", type=int, default=10_000, help="samples a shard")
    made.add_argument("--seed", type=int, default=0, help="of the order: neighbours in a folder are often alike")
    arguments = made.parse_args()
    pack(**vars(arguments))


def pack(
    *, data_path: Path, captions_file: str, output: Path, max_megabytes: float, max_samples: int, seed: int
) -> None:
    """Write `output`/shard-NNNNNN.tar with their indices, all or none; what a killed try has left is taken away first.

    UserError: unusable input, or images that are missing or no images (the first is named).
    """
    if max_megabytes <= 0 or max_samples < 1:
        raise UserError(f"--max_megabytes and --max_samples must be positive, not {max_megabytes}, {max_samples}")
    scratch = output / SCRATCH
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not scratch.is_dir())):
        raise UserError(f"{output} is not an empty folder; name another")
    from fluxflow_exp.seeding import derive  # torch, which --help does without

    packed = _chosen(captions_file, data_path)
    random.Random(derive(seed, "pack")).shuffle(packed)
    _clear(scratch)
    scratch.mkdir(parents=True)
    try:
        _write(scratch, packed, max_megabytes=max_megabytes, max_samples=max_samples)
        shards = sorted(scratch.iterdir())
        for shard in track(shards, description="Indexing"):
            shard_index.write(shard)
        for file in sorted(scratch.iterdir()):
            file.rename(output / file.name)
        scratch.rmdir()
    except BaseException:
        with suppress(OSError):  # the first error is the one to be told
            _clear(scratch)
        raise
    keys = f" data.label_key=json data.caption_key={CAPTION}" if _several(packed) else ""
    last = shards[-1].stem.removeprefix("shard-")
    print(f"{counted(len(packed), 'sample')} in {counted(len(shards), 'shard')}. Train on them:")
    print(f"  data=webdataset 'data.urls=\"{output}/shard-{{000000..{last}}}.tar\"'" + keys)


class _Packed(NamedTuple):
    file: Path
    extension: str
    captions: Choices

    def texts(self, *, listed: bool) -> dict[str, Any]:
        """Its members beside the image: the heaviest caption, and where they are `listed` all of them."""
        captions, weights = zip(*self.captions, strict=True)
        whole = {"json": {CAPTION: captions, WEIGHT: weights}} if listed else {}
        return {"txt": heaviest(self.captions), **whole}


def _chosen(captions_file: str, folder: Path) -> list[_Packed]:
    """Return the samples to pack; those that are left out are told. UserError: images are missing, or are none."""
    from fluxflow_exp.data.captions_file import read_captions  # torch

    try:
        entries, bad, *_ = read_captions(captions_file, folder)
    except ValueError as error:
        raise UserError(str(error)) from error
    missing = [entry.id for entry in entries if not os.path.isfile(folder / entry.place)]
    if missing:
        raise UserError(f"{len(missing)} of {len(entries)} images are not in {folder}; first: {missing[0]}")
    bare = [entry.id for entry in entries if not all(caption for caption, _ in entry.weighted)]
    bad += [(name, "an empty caption, which no shard can have") for name in bare]
    found, unknown = [], []
    captioned = [entry for entry in entries if any(caption for caption, _ in entry.weighted)]
    for entry in _one_a_group(captioned, bad):
        extension = Path(entry.place).suffix.lower().removeprefix(".")
        if extension not in EXTENSIONS:
            try:
                extension = _by_content(folder / entry.place)
            except OSError as error:
                bad.append((entry.id, reason(error)))
                continue
            unknown.append(f"{entry.id} as {extension}")
        captions = tuple((caption, weight) for caption, weight in entry.weighted if caption)
        found.append(_Packed(folder / entry.place, extension, captions))
    for name, why in bad:
        print(f"left out: {name}: {why}", file=sys.stderr)
    if unknown:
        print(f"{counted(len(unknown), 'file')} named by their content; first: {unknown[0]}", file=sys.stderr)
    if not found:
        raise UserError(f"{captions_file}: nothing of it can be packed")
    return found


def _one_a_group(entries: list[Entry], bad: Bad) -> list[Entry]:
    """Leave out near copies: shards are held out by the name of each sample, so that a group could be parted."""
    first: dict[str, str] = {}
    kept = []
    for entry in entries:
        if entry.group is None or first.setdefault(entry.group, entry.id) == entry.id:
            kept.append(entry)
        else:
            bad.append((entry.id, f"shares its split_group with {first[entry.group]}, and shards would part the two"))
    return kept


def _by_content(path: Path) -> str:
    """The extension of what the file holds. OSError: it is no picture."""
    with opened(path) as image:
        known = Image.registered_extensions()
        found = next((name for name in EXTENSIONS if known.get(f".{name}") == image.format), None)
    if found is None:
        raise OSError(f"is of the format {image.format}, which has no extension of its own: convert it")
    return found


def _write(folder: Path, packed: list[_Packed], *, max_megabytes: float, max_samples: int) -> None:
    import webdataset

    pattern = f"{str(folder.absolute()).replace('%', '%%')}/shard-%06d.tar"
    with webdataset.ShardWriter(pattern, maxcount=max_samples, maxsize=max_megabytes * 1e6, verbose=0) as writer:
        listed = _several(packed)
        for number, each in enumerate(track(packed, description="Packing")):
            # A number has no dot: a sample's name ends at its first one, and files may have several.
            with naming(each.file):
                image = each.file.read_bytes()
            with naming(folder):
                writer.write({"__key__": f"{number:09d}", each.extension: image, **each.texts(listed=listed)})


def _several(packed: list[_Packed]) -> bool:
    return any(len(each.captions) > 1 for each in packed)


def _clear(scratch: Path) -> None:
    """Take away what a try has left that did not come to its end."""
    if scratch.is_dir():
        for left in [*scratch.iterdir(), *scratch.parent.glob("shard-*.tar*")]:
            left.unlink()
        scratch.rmdir()


if __name__ == "__main__":
    sys.exit(cli())
