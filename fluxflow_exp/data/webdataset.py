"""WebDataset shards: local ones are indexed once and then read like a folder, others are streamed."""

import glob
import hashlib
import io
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen
from braceexpand import braceexpand
from rich.progress import track
from torch import Tensor

from fluxflow_exp.config.bounds import Fraction, PositiveInt, Share
from fluxflow_exp.config.published import REMOTE
from fluxflow_exp.data import several_captions, tar
from fluxflow_exp.data.decoding import reason
from fluxflow_exp.data.folder_notes import unusable
from fluxflow_exp.data.images import Entry, Images, ImageTransform, check_fraction, file_state, is_held_out
from fluxflow_exp.data.protocols import Bad, Source, Stream
from fluxflow_exp.data.stream import Streamed
from fluxflow_exp.data.transforms import check_colour

N_PROMPTS = 64


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
    variable whose value is sent as bearer token. The remaining arguments are those of `ImageFolder`. ValueError: no
    shards, no sample with image and caption, or a mixture of local and streamed shards.
    """

    reads_back = False
    train: Source | Stream

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
        if isinstance(shards[0], Path):
            entries = self._index([s for s in shards if isinstance(s, Path)], keys)
            held_out = [e for e in entries if is_held_out(e.id, validation_fraction)]
            trained = [e for e in entries if not is_held_out(e.id, validation_fraction)]
            self.train = Images(trained, _file_of, transform, state_of=_state_of)
            self.bad += self.train.bad
        else:
            if transform.sizes_matter():
                raise ValueError("buckets and reduced_min_sizes need local shards: download them first")
            if epoch_size is None:
                raise ValueError("epoch_size is not set: streamed shards need a stated number of samples an epoch")
            streamed = [s for s in shards if isinstance(s, str)]
            self.train = Streamed(
                streamed, keys, transform, fraction=validation_fraction, epoch_size=epoch_size,
                buffer=shuffle_buffer, token_env=token_env,
            )  # fmt: skip
            held_out = self.train.held_out(validation_images)
            trained = held_out  # how many there are is not known
        if not held_out or not trained:
            raise ValueError(
                f"urls: {len(trained)} training and {len(held_out)} held-out samples with image and caption in "
                f"{len(shards)} shards; there must be some of both" + (f". First: {self.bad[0]}" if self.bad else "")
            )
        self.validation = Images(several_captions.single(held_out), _file_of, square, state_of=_state_of)
        self.notes = several_captions.notes(trained) + unusable(self.bad, "samples")
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
            for key, members in found.items():
                name = f"{shard.name}/{key}"
                try:
                    image = keys.image_of(members)
                    entries.append(several_captions.entry_of(name, keys.captions_of(members, tar.Member.read), image))
                except ValueError as error:
                    self.bad.append((name, str(error)))
                except OSError as error:
                    self.bad.append((name, reason(error)))
        return entries


def expand(urls: str | list[str]) -> list[Path] | list[str]:
    """All shards that `urls` name, each once: paths, or addresses. ValueError: none, or both kinds."""
    given = [urls] if isinstance(urls, str) else list(urls)
    remote = [u for u in given if u.startswith(REMOTE)]
    if remote and len(remote) < len(given):
        raise ValueError("urls: local and streamed shards cannot be mixed; make two data sets of them (data=multi)")
    if remote:
        addresses = [a for u in remote for a in ([u] if u.startswith("pipe:") and "{" not in u else braceexpand(u))]
        return list(dict.fromkeys(_address(a) for a in addresses))
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
