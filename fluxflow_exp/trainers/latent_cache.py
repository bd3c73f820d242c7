"""Writing a flow step's caches: every rank encodes its share of what is missing, then all read the same files."""

import random
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fluxflow_exp.data.cache import DrawnCache, Entries, LatentCache, array_of
from fluxflow_exp.data.protocols import BadSampleError, Drawing, Source, Stream
from fluxflow_exp.data.sequential import read_lists
from fluxflow_exp.errors import UserError, counted
from fluxflow_exp.losses.augmentation import Augmentation
from fluxflow_exp.seeding import derive
from fluxflow_exp.trainers.accumulation import attempt
from fluxflow_exp.trainers.alignment import Alignment
from fluxflow_exp.trainers.cache_files import CHECKED, TOLERANCE, compare, fill, folder_of, megabytes, wrong
from fluxflow_exp.trainers.context import StepContext
from fluxflow_exp.trainers.token_cache import open_tokens

# At two bytes float16 keeps three bits more than bfloat16 of numbers from 6e-5 to 65504, where moments and tokens lie.
STORED = {"fp32": torch.float32, "bf16": torch.float16, "fp16": torch.float16}
PROBED = 100  # samples of a shape that are tried until one can be read


def open_cache(
    setup: StepContext,
    root: Path,
    trains_text: bool,
    alignment: Alignment | None = None,
    augmentation: Augmentation | None = None,
) -> LatentCache | DrawnCache | None:
    """The cache of a step's data and frozen parts, a teacher among them, below `root`; what it lacks is written first.

    All samples that may be drawn are in it, where data draw theirs.
    Within cache.max_gib, where it is set: tokens that do not fit are not cached, and None is latents that do not.
    UserError: no room, numbers that float16 cannot hold, or a cache that does not hold what it should.
    Interrupted: a signal came before it was whole; what was written stays.
    """
    trained, parts = setup.data.train, setup.parts
    assert not isinstance(trained, Stream)  # nothing is cached of what varies
    source = trained.pool() if isinstance(trained, Drawing) else trained
    compressor: Any = parts["compressor"]
    encoder = Encoder(setup, source, compressor.moments, STORED[setup.machine.precision], "Latent cache")
    encoder.augmentation, more = augmentation, augmentation.token if augmentation else []
    encoders = {folder_of(setup, root, "latents", compressor, source.fingerprint, *more): encoder}
    if alignment:
        seen = Encoder(setup, source, alignment.of, torch.bfloat16, "Feature cache")
        place = folder_of(setup, root, "features", alignment.teacher, source.fingerprint, alignment.token)
        encoders[place] = seen
    left = _left(setup, encoders)
    if left is not None and left < 0:
        return None
    cache, *features = (_filled(each, folder) for folder, each in encoders.items())
    if not trains_text:
        cache.tokens = open_tokens(setup, root, sorted({"", *cache.all_captions()}), left)
    if alignment:
        (cache.features,) = features
        cache.bad |= cache.features.bad
        alignment.teacher.cpu()
    return DrawnCache(cache, trained, len(trained)) if isinstance(trained, Drawing) else cache


def _left(setup: StepContext, encoders: dict[Path, "Encoder"]) -> int | None:
    """Bytes of cache.max_gib that latents and features leave; negative: they do not fit; None: there is no bound.

    UserError: they do not fit, and cache.mode=on asks for them.
    """
    most = setup.caching.max_gib
    if most is None:
        return None
    caches = [(each, LatentCache(folder, each.source)) for folder, each in encoders.items()]
    need = setup.ranks.from_first(sum(each.need(c, None)[1] for each, c in caches) if setup.ranks.first else 0)
    left = int(most * 2**30) - need
    if left < 0:
        kept = "latents" if len(caches) == 1 else "latents and a teacher's features"
        said = f"{kept} of {len(caches[0][1]):,} images take {megabytes(need)}, more than cache.max_gib={most:g}"
        if setup.caching.mode == "on":
            raise UserError(f"{said}: raise it, or set cache.mode=auto, which encodes images at every update then")
        setup.console.say(f"Nothing is cached: {said}. Images are encoded at every update")
    return left


def _filled(encoder: "Encoder", folder: Path) -> LatentCache:
    """The cache in `folder`, whole, some of which was encoded again."""
    cache = LatentCache(folder, encoder.source)
    fill(encoder.setup, cache.shards, partial(encoder.write, cache), partial(encoder.need, cache))
    cache.open()
    if encoder.setup.ranks.first:
        encoder.check(cache)
    encoder.setup.ranks.meet()
    return cache


class Encoder:
    """A step's frozen parts, run over its training set in the shapes of training: there is one way to compile and
    one way to round.

    `of` gives of images (n, 3, height, width) in [-1, 1] what is kept of them, as `kept`; `what` names it.
    """

    def __init__(
        self, setup: StepContext, source: Source, of: Callable[[Tensor], Tensor], kept: torch.dtype, what: str
    ) -> None:
        self.setup, self.source, self.machine = setup, source, setup.machine
        self.of, self.kept, self.what = of, kept, what
        self.precision = self.machine.precision
        self.micro_batch = self.at_once = setup.length.micro_batch
        self.augmentation: Augmentation | None = None  # whose views are all kept, one behind the other as channels

    def need(self, cache: LatentCache, missing: list[int] | None) -> tuple[str, int]:
        """Return what is to be written, in words, and its bytes; None: all."""
        images, need = 0, 0
        sizes: dict[Any, int] = {}
        for members in cache.contents if missing is None else [cache.contents[number] for number in missing]:
            group = cache.groups[members[0]] if cache.groups else None
            if group not in sizes:
                values = self.values(*self._probe(group))
                sizes[group] = values[0].numel() * values.element_size()
            images += len(members)
            need += len(members) * sizes[group]
        each = f" in {self.augmentation.views} views each" if self.augmentation else ""
        return f"{self.what}: {counted(images, 'image')}{each}", need

    def write(self, cache: LatentCache, numbers: list[int]) -> Generator[None]:
        """Write these shards, one at each step."""
        micro = self.micro_batch
        parts = {
            n: [cache.contents[n][i : i + micro] for i in range(0, len(cache.contents[n]), micro)] for n in numbers
        }
        lists = [part for number in numbers for part in parts[number]]
        image_bytes = 3 * self.setup.data.img_size**2
        reading = read_lists(self.source, lists, num_workers=self.setup.num_workers, image_bytes=image_bytes)
        with closing(reading):
            batches = self.setup.stop.while_idle(reading, finishing=True)  # the shard
            for number in numbers:
                entries, count = Entries([], [], {}), len(cache.contents[number])
                found = torch.zeros((count, 0))  # of a shard of bad samples alone
                for read in islice(batches, len(parts[number])):
                    first = len(entries.ids)
                    if read.rows:
                        values = self.values(read.images, [read.ids[row] for row in read.rows])
                        if not found.numel():
                            found = values.new_zeros((count, *values.shape[1:]))
                        found[[first + row for row in read.rows]] = values
                    entries.ids.extend(read.ids)
                    entries.captions.extend(read.captions)
                    entries.bad.update({str(first + row): reason for row, reason in read.bad.items()})
                cache.write(number, array_of(found), entries)
                yield

    @torch.no_grad()
    def values(self, images: Tensor, ids: list[str]) -> Tensor:
        """uint8 images of one shape, a micro-batch at most → (images, channels, h, w) as stored, on the CPU."""
        more = self.micro_batch - len(images)
        with self.machine.autocast():
            found = self._encode(torch.cat([images, images[-1:].expand(more, -1, -1, -1)]), ids + ids[-1:] * more)
        return self._stored(found[: len(images)].to(self.kept), self.what, ids)

    def check(self, cache: LatentCache) -> None:
        """Encode some entries again. UserError: they are not what the cache holds."""
        good = [index for index in range(len(cache)) if index not in cache.bad]
        chosen = random.Random(derive(self.setup.seed, self.setup.name, "cache")).sample(good, min(CHECKED, len(good)))
        for index in chosen:
            kept = cache.read_rows([index], [random.Random(0)])
            try:
                sample = self.source.read(index, random.Random(0))
            except BadSampleError as error:
                raise wrong(cache.shards.folder, str(error)) from error
            if (sample.id, sample.caption) != (kept.ids[0], kept.captions[0]):
                raise wrong(cache.shards.folder, f"it has {kept.ids[0]!r} in the place of {sample.id!r}")
            fresh, folder = self.values(sample.image[None], [sample.id])[0], cache.shards.folder
            compare(fresh, kept.values[0], folder, sample.id, tolerance=TOLERANCE[self.precision])
        if chosen:
            checked = f"{len(chosen)} of them, encoded again, are the same"
            self.setup.console.say(f"{self.what}: {counted(len(cache), 'image')} in {cache.shards.folder}; {checked}")

    def _encode(self, images: Tensor, ids: list[str]) -> Tensor:
        """What is to be kept of them, fewer at once where memory does not suffice. OutOfMemoryError: not for one."""

        def passes() -> Tensor:
            parts = [slice(first, first + self.at_once) for first in range(0, len(images), self.at_once)]
            return torch.cat([self._views(self.machine.to_device(images[part]), ids[part]) for part in parts])

        while self.at_once > 1:
            done = attempt(passes)
            if done:
                return done[0]
            self.at_once //= 2
            if self.machine.device.type == "cuda":
                torch.cuda.empty_cache()
        return passes()

    def _views(self, images: Tensor, ids: list[str]) -> Tensor:
        views: Iterable[Tensor] = self.augmentation.all_views(images, ids) if self.augmentation else [images]
        return torch.cat([self.of(view) for view in views], 1)

    def _stored(self, found: Tensor, what: str, names: list[str]) -> Tensor:
        finite = found.isfinite().flatten(1).all(1).tolist()
        if not all(finite):
            name = names[finite.index(False)]
            raise UserError(f"{what}: that of {name!r} is not finite in {found.dtype}: set cache.mode=off")
        return found.cpu()

    def _probe(self, group: Any) -> tuple[Tensor, list[str]]:
        """An image (1, 3, height, width) of this shape, and its name. UserError: none can be read."""
        groups, reason = self.source.groups, ""
        alike = (i for i in range(len(self.source)) if groups is None or groups[i] == group)
        for index in islice(alike, PROBED):
            try:
                sample = self.source.read(index, random.Random(0))
                return sample.image[None], [sample.id]
            except BadSampleError as error:
                reason = str(error)
        raise UserError(f"none of the first {PROBED} images can be read; the last: {reason}. Check data.data_path")
