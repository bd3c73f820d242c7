"""WebDataset shards: local ones are indexed and read like a folder, others are fetched and so read, or streamed."""

import glob
import hashlib
import io
import os
from itertools import compress
from operator import not_
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen
from braceexpand import braceexpand
from rich.progress import track
from torch import Tensor

from fluxflow_exp.config.bounds import Fraction, PositiveFloat, PositiveInt, Share
from fluxflow_exp.config.published import REMOTE
from fluxflow_exp.data import fetched, several_captions, tar
from fluxflow_exp.data.decoding import reason
from fluxflow_exp.data.folder_notes import unusable
from fluxflow_exp.data.images import Entry, Images, ImageTransform, check_fraction, file_state, is_held_out
from fluxflow_exp.data.object_storage import Storage, patiently
from fluxflow_exp.data.protocols import Bad, Source, Stream
from fluxflow_exp.data.shard_cache import ShardCache
from fluxflow_exp.data.stream import Streamed
from fluxflow_exp.data.transforms import check_colour

N_PROMPTS = 64
STREAMED = ("http://", "https://", "hf://", "pipe:")  # what can be read from front to back


class WebDataset:
    """Captioned images of tar shards.

    `urls` is one entry or a list: local paths, globs, brace ranges ("train-{000..012}.tar"), http(s):// and hf://
    addresses, or "pipe:command" whose output is a shard. Every shard is read; a file that exists is meant by its name,
    brackets and braces in it or not. `image_key` names the image's extension ("jpg;png", by default any that Pillow
    reads); `label_key` that of the caption: a text, or with `caption_key` a JSON of which that field is the
    caption, or a list of several, of which one is chosen each time that the image is trained on, by the weights that
    its field `caption_weight` lists.

    Local shards: an epoch is every sample once, exact for any number of workers. Streamed ones: an epoch is
    `epoch_size` samples; `validation_images` held-out ones are read at the start. `token_env` names the environment
    variable whose value is sent as bearer token.

    With `cache_gib` remote shards, of s3:// and gs:// too, are indexed, fetched into `cache_folder`, where at most so
    many GiB stay, and read like local ones; an epoch shuffles the shards, and samples among `shuffle_shards` of them.

    The remaining arguments are those of `ImageFolder`. ValueError: no shards, no sample with image and caption, or a
    mixture of local and streamed shards.
    """

    reads_back = False
    train: Source | Stream
    notes: list[str]

    # One argument for each key of conf/data/webdataset.yaml.
    def __init__(
        self,
        *,
        urls: str | Annotated[list[str], MinLen(1)],
        image_key: str | None = None,
        label_key: str = "txt",
        caption_key: str | None = None,
        epoch_size: PositiveInt | None = None,
        shuffle_buffer: PositiveInt = 1000,
        validation_images: PositiveInt = 256,
        token_env: str | None = None,
        cache_gib: PositiveFloat | None = None,
        cache_folder: str = "~/.cache/fluxflow-exp/shards",
        shuffle_shards: PositiveInt = 8,
        img_size: PositiveInt = 256,
        crop: Literal["centre", "random"] = "centre",
        flip: bool = False,
        background: str = "white",
        buckets: Annotated[float, Ge(1)] | None = None,
        reduced_min_sizes: list[PositiveInt] | None = None,
        fixed_prompt_prefix: str | None = None,
        validation_fraction: Fraction = 0.1,
        max_bad_fraction: Share = 0.05,
    ) -> None:
        check_fraction(validation_fraction)
        check_colour(background)
        self.img_size, self.max_bad_fraction = img_size, max_bad_fraction
        keys = tar.Keys(image_key, label_key, caption_key, fixed_prompt_prefix)
        transform = ImageTransform(img_size, crop, flip, background, buckets, reduced_min_sizes)
        square = ImageTransform(img_size, background=background)
        shards = expand(urls)
        self.bad: Bad = []
        self.notes = []
        local = [s for s in shards if isinstance(s, Path)]
        remote = [s for s in shards if isinstance(s, str)]
        _check_ways(remote, transform, epoch_size=epoch_size, cache_gib=cache_gib)
        if cache_gib is not None:
            cache = ShardCache(Path(cache_folder).expanduser(), cache_gib, Storage(token_env))
            trained, held_out = _parted(fetched.entries(remote, cache, keys, self.bad), validation_fraction)
            if trained:
                self.train = fetched.FetchedImages(trained, cache, transform, together=shuffle_shards)
                self.notes += self.train.notes()
                held_out = fetched.in_memory(held_out[:validation_images], cache)
        elif local:
            trained, held_out = _parted(self._index(local, keys), validation_fraction)
            self.train = Images(trained, _file_of, transform, state_of=_state_of)
            self.bad += self.train.bad
        else:
            assert epoch_size is not None
            self.train = Streamed(
                remote, keys, transform, fraction=validation_fraction, epoch_size=epoch_size,
                buffer=shuffle_buffer, token_env=token_env,
            )  # fmt: skip
            trained = held_out = self.train.held_out(validation_images)  # how many there are is not known
        _check_both(trained, held_out, len(shards), self.bad)
        self.validation = Images(several_captions.single(held_out), _file_of, square, state_of=_state_of)
        self.notes += several_captions.notes(trained) + unusable(self.bad, "sample")
        self.prompts = list(dict.fromkeys(e.caption for e in held_out))[:N_PROMPTS]

    def score(self, images: Tensor, captions: list[str]) -> dict[str, float]:
        """Nothing here reads captions back from images."""
        return {}

    def _index(self, shards: list[Path], keys: tar.Keys) -> list[Entry]:
        entries = []
        for shard in track(shards, description="Indexing shards"):
            try:
                found, bad = tar.index(shard)
            except OSError as error:
                raise ValueError(f"urls: {shard}: {reason(error)}") from error
            self.bad += bad
            entries += several_captions.of_shard(shard.name, found, keys, tar.Member.read, self.bad)
        return entries


def _parted(entries: list[Entry], fraction: float) -> tuple[list[Entry], list[Entry]]:
    """Those to train on, and those that are held out."""
    held_out = [is_held_out(entry.id, fraction) for entry in entries]
    return list(compress(entries, map(not_, held_out))), list(compress(entries, held_out))


def _check_both(trained: list[Entry], held_out: list[Entry], shards: int, bad: Bad) -> None:
    if not held_out or not trained:
        raise ValueError(
            f"urls: {len(trained)} training and {len(held_out)} held-out samples with image and caption in "
            f"{shards} shards; there must be some of both" + (f". First: {bad[0]}" if bad else "")
        )


def _check_ways(
    remote: list[str], transform: ImageTransform, *, epoch_size: int | None, cache_gib: float | None
) -> None:
    """ValueError: what is asked of shards that are remote, or not, is not to be had."""
    if not remote:
        if cache_gib is not None:
            raise ValueError("cache_gib is of shards that are fetched, and these are local: they are read as they are")
        return
    if transform.sizes_matter():
        raise ValueError("buckets and reduced_min_sizes need local shards: download them first")
    if cache_gib is None:
        for url in remote:
            if not url.startswith(STREAMED):
                raise ValueError(
                    f"urls: {url}: shards of {url.partition('://')[0]}:// are fetched into a folder: say how many GiB "
                    "may stay there (+data.cache_gib=50)"
                )
        if epoch_size is None:
            raise ValueError(
                "epoch_size is not set: streamed shards need a stated number of samples an epoch. Or fetch them into a "
                "folder, so that an epoch is every sample once: +data.cache_gib=GIB"
            )
    elif epoch_size is not None:
        raise ValueError("epoch_size is of shards that are streamed: with cache_gib an epoch is every sample once")
    elif any(url.startswith("pipe:") for url in remote):
        raise ValueError("urls: a command's output is streamed: cache_gib is of addresses")


def expand(urls: str | list[str]) -> list[Path] | list[str]:
    """All shards that `urls` name, each once: paths, or addresses. ValueError: none, or both kinds."""
    given = [urls] if isinstance(urls, str) else list(urls)
    remote = [u for u in given if u.startswith(REMOTE)]
    if remote and len(remote) < len(given):
        raise ValueError("urls: local and streamed shards cannot be mixed; make two data sets of them (data=multi)")
    if remote:
        addresses = [a for u in remote for a in ([u] if u.startswith("pipe:") and "{" not in u else braceexpand(u))]
        return list(dict.fromkeys(found for a in addresses for found in _found(_address(a))))
    paths: list[Path] = []
    for whole in (os.path.expanduser(u) for u in given):
        for pattern in [whole] if os.path.exists(whole) else braceexpand(whole):
            found = [pattern] if os.path.exists(pattern) else _matching(pattern)
            if not found:
                raise ValueError(f"urls: there is no file {pattern}")
            paths += [Path(p) for p in found]
    return list(dict.fromkeys(paths))


def _matching(pattern: str) -> list[str]:
    """Expand a glob; of its folders those that exist by that very name are taken by it."""
    folder = next((parent for parent in Path(pattern).parents if os.path.isdir(parent)), Path())
    return sorted(glob.glob(os.path.join(glob.escape(str(folder)), Path(pattern).relative_to(folder)), recursive=True))


def _found(url: str) -> list[str]:
    """The addresses that `url` names, whose file system may expand a *."""
    if "*" not in url or url.startswith(STREAMED):
        return [url]
    found = patiently(f"cannot list {url}", lambda: Storage().matching(url))
    if not found:
        raise ValueError(f"urls: there is no file {url}")
    return found


def _address(url: str) -> str:
    """hf://datasets/OWNER/NAME/PATH is a file of the hub, to be had over https."""
    if not url.startswith("hf://"):
        return url
    if "*" in url:
        raise ValueError(f"urls: {url}: name the shards with a brace range, e.g. {{00000..00046}}, not with *")
    kind, owner, name, path = url.removeprefix("hf://").split("/", 3)
    return f"https://huggingface.co/{kind}/{owner}/{name}/resolve/main/{path}"


def _file_of(place: tar.Member | bytes) -> io.BytesIO:
    return io.BytesIO(place if isinstance(place, bytes) else place.read())


def _state_of(place: tar.Member | bytes) -> Any:
    if isinstance(place, bytes):
        return hashlib.sha256(place).hexdigest()
    return place.offset, place.size, file_state(place.shard)
