"""Writing a flow step's caches: every rank encodes its share of what is missing, then all read the same files."""

import hashlib
import random
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fluxflow_exp.data.cache import FORMAT, Entries, LatentCache, TokenCache, array_of
from fluxflow_exp.data.protocols import BadSampleError, Source, Stream, digest
from fluxflow_exp.data.sequential import read_lists
from fluxflow_exp.errors import UserError
from fluxflow_exp.seeding import derive
from fluxflow_exp.trainers.accumulation import attempt
from fluxflow_exp.trainers.alignment import Alignment
from fluxflow_exp.trainers.cache_files import fill, wrong
from fluxflow_exp.trainers.context import StepContext

# At two bytes float16 keeps three bits more than bfloat16 of numbers from 6e-5 to 65504, where moments and tokens lie.
STORED = {"fp32": torch.float32, "bf16": torch.float16, "fp16": torch.float16}
# How far an entry that is encoded again may be from the one kept: root mean square, relative. Another card, version or
# TF32 rounds otherwise; other weights or images are farther by orders of magnitude.
TOLERANCE = {"fp32": 5e-3, "bf16": 5e-2, "fp16": 5e-2}
CHECKED = 4  # entries encoded again at a start
PROBED = 100  # samples of a shape that are tried until one can be read


def open_cache(setup: StepContext, root: Path, trains_text: bool, alignment: Alignment | None = None) -> LatentCache:
    """The cache of a step's data and frozen parts, a teacher among them, below `root`; what it lacks is written first.

    UserError: no room, numbers that float16 cannot hold, or a cache that does not hold what it should.
    Interrupted: a signal came before it was whole; what was written stays.
    """
    source, parts = setup.data.train, setup.parts
    assert not isinstance(source, Stream)  # nothing is cached of what varies
    compressor: Any = parts["compressor"]
    encoder = Encoder(setup, source, compressor.moments, STORED[setup.machine.precision], "Latent cache")
    cache = _filled(encoder, encoder.folder(root, "latents", compressor, source.fingerprint))
    if not trains_text:
        captions = sorted({"", *cache.all_captions()})
        folder = encoder.folder(root, "text", parts["text_encoder"], partial(digest, captions))
        cache.tokens = tokens = TokenCache(folder, captions)
        fill(setup, tokens.shards, partial(encoder.write_tokens, tokens), partial(encoder.tokens_need, tokens))
        tokens.open()
    if setup.ranks.first:
        encoder.check(cache)
    setup.ranks.meet()
    if alignment:
        cache.features = _features(setup, source, root, alignment)
        cache.bad |= cache.features.bad
    return cache


def _features(setup: StepContext, source: Source, root: Path, alignment: Alignment) -> LatentCache:
    """What a teacher sees of each image, on the grid of tokens. UserError: it would be more than is allowed."""
    encoder = Encoder(setup, source, alignment.of, torch.bfloat16, "Feature cache")
    folder = encoder.folder(
        root, "features", alignment.teacher, lambda: digest([source.fingerprint(), alignment.token])
    )
    alignment.repa.check_size(len(source), encoder.need(LatentCache(folder, source), None)[1])
    cache = _filled(encoder, folder)
    if setup.ranks.first:
        encoder.check(cache)
    setup.ranks.meet()
    alignment.teacher.cpu()
    return cache


def _filled(encoder: "Encoder", folder: Path) -> LatentCache:
    """The cache in `folder`, whole."""
    cache = LatentCache(folder, encoder.source)
    fill(encoder.setup, cache.shards, partial(encoder.write, cache), partial(encoder.need, cache))
    cache.open()
    return cache


def weights_digest(module: nn.Module) -> str:
    """Return the digest of a model's layers and weights, on whatever device they are; hexadecimal."""
    found = hashlib.sha256(str(module).encode())
    for name, tensor in module.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


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

    def folder(self, root: Path, kind: str, part: nn.Module, fingerprint: Callable[[], str]) -> Path:
        """Named by all that the values depend on, as the first rank sees it."""
        key = ""
        if self.setup.ranks.first:
            key = digest([FORMAT, kind, self.precision, weights_digest(part), fingerprint()])[:16]
        return root / f"{kind}-{self.setup.ranks.from_first(key)}"

    def need(self, cache: LatentCache, missing: list[int] | None) -> tuple[str, int]:
        """Return what is to be written, in words, and its bytes; None: all."""
        images, need = 0, 0
        sizes: dict[Any, int] = {}
        for members in cache.contents if missing is None else [cache.contents[number] for number in missing]:
            group = cache.groups[members[0]] if cache.groups else None
            if group not in sizes:
                values = self.values(self._probe(group))
                sizes[group] = values[0].numel() * values.element_size()
            images += len(members)
            need += len(members) * sizes[group]
        return f"{self.what}: {images:,} images", need

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
            batches = self.setup.stop.while_idle(reading)
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

    def tokens_need(self, cache: TokenCache, missing: list[int]) -> tuple[str, int]:
        """Return what is to be written, in words, and its bytes if every caption had as many tokens as the longest."""
        captions = [caption for number in missing for caption in cache.contents[number]]
        longest = self.tokens([max(captions, key=lambda caption: len(caption.encode()))])[0]
        return f"Text cache: {len(captions):,} captions", len(captions) * longest.nbytes

    def write_tokens(self, cache: TokenCache, numbers: list[int]) -> Generator[None]:
        """Write these shards, one at each step."""
        micro = self.micro_batch
        for number in numbers:
            captions = cache.contents[number]
            cache.write(
                number, [t for i in range(0, len(captions), micro) for t in self.tokens(captions[i : i + micro])]
            )
            yield

    @torch.no_grad()
    def values(self, images: Tensor, ids: list[str] | None = None) -> Tensor:
        """uint8 images of one shape, a micro-batch at most → (images, channels, h, w) as stored, on the CPU."""
        more = self.micro_batch - len(images)
        with self.machine.autocast():
            found = self._encode(torch.cat([images, images[-1:].expand(more, -1, -1, -1)]))
        return self._stored(found[: len(images)].to(self.kept), self.what, ids)

    @torch.no_grad()
    def tokens(self, captions: list[str]) -> list[NDArray[Any]]:
        """(own length, width) of each caption as stored."""
        with self.machine.autocast():
            text = self.setup.parts["text_encoder"](captions)
        kept = text.tokens.to(STORED[self.precision])
        stored, masks = self._stored(kept, "Text cache", captions), text.mask.cpu()
        return [tokens[mask].numpy() for tokens, mask in zip(stored, masks, strict=True)]

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
            self._compare(self.values(sample.image[None])[0], kept.values[0], cache.shards.folder, sample.id)
            if cache.tokens and kept.tokens:
                fresh = torch.from_numpy(self.tokens([sample.caption])[0])
                own = kept.tokens.tokens[0, : kept.tokens.lengths[0]]
                self._compare(fresh, own, cache.tokens.shards.folder, sample.caption)
        if chosen:
            self.setup.console.say(
                f"{self.what}: {len(cache):,} images in {cache.shards.folder}; {len(chosen)} encoded again agree"
            )

    def _encode(self, images: Tensor) -> Tensor:
        """What is to be kept of them, fewer at once where memory does not suffice. OutOfMemoryError: not for one."""

        def passes() -> Tensor:
            parts = torch.split(images, self.at_once)
            return torch.cat([self.of(self.machine.to_device(part)) for part in parts])

        while self.at_once > 1:
            done = attempt(passes)
            if done:
                return done[0]
            self.at_once //= 2
            if self.machine.device.type == "cuda":
                torch.cuda.empty_cache()
        return passes()

    def _compare(self, fresh: Tensor, kept: Tensor, folder: Path, name: str) -> None:
        if fresh.shape != kept.shape:
            raise wrong(folder, f"{name!r} has the shape {tuple(kept.shape)} there and {tuple(fresh.shape)} here")
        error = float((kept.float() - fresh.float()).norm() / fresh.float().norm())
        if not error <= TOLERANCE[self.precision]:
            raise wrong(
                folder, f"{name!r} encoded again differs by {error:.2g} (tolerance {TOLERANCE[self.precision]:g})"
            )

    def _stored(self, found: Tensor, what: str, names: list[str] | None) -> Tensor:
        finite = found.isfinite().flatten(1).all(1).tolist()
        if not all(finite):
            name = names[finite.index(False)] if names else "a sample"
            raise UserError(f"{what}: that of {name!r} is not finite in {found.dtype}: set cache.mode=off")
        return found.cpu()

    def _probe(self, group: Any) -> Tensor:
        """An image (1, 3, height, width) of this shape. UserError: none can be read."""
        groups, reason = self.source.groups, ""
        alike = (i for i in range(len(self.source)) if groups is None or groups[i] == group)
        for index in islice(alike, PROBED):
            try:
                return self.source.read(index, random.Random(0)).image[None]
            except BadSampleError as error:
                reason = str(error)
        raise UserError(f"none of the first {PROBED} images can be read; the last: {reason}. Check data.data_path")
