"""Writing a frozen text encoder's tokens of all captions, once, before a flow step's first update."""

import random
from collections.abc import Generator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fluxflow_exp.data.cache import TokenCache
from fluxflow_exp.data.protocols import digest
from fluxflow_exp.data.token_formats import form_of, packed_each, unpacked
from fluxflow_exp.errors import counted
from fluxflow_exp.seeding import derive
from fluxflow_exp.trainers.cache_files import CHECKED, TOLERANCE, compare, fill, folder_of, megabytes
from fluxflow_exp.trainers.context import StepContext

ROUNDED = {"bfloat16": 5e-2, "float8": 0.2}  # tolerance of what a format itself rounds
SAMPLED = 64  # captions by whose tokens the need is estimated


def open_tokens(setup: StepContext, root: Path, captions: list[str], room: int | None) -> TokenCache | None:
    """The tokens of `captions`, the empty one among them, below `root`; what is lacking is written first.

    None: they would take more than `room` bytes. UserError: as those of latents.
    """
    encoder = CaptionEncoder(setup)
    more = [] if setup.caching.text_dtype == "auto" else [encoder.form]
    part = setup.parts["text_encoder"]
    cache = TokenCache(folder_of(setup, root, "text", part, partial(digest, captions), *more), captions)
    if room is not None:
        need = encoder.need(cache, list(range(len(cache.contents))))[1] if setup.ranks.first else 0
        if setup.ranks.from_first(need) > room:
            setup.console.say(
                f"Tokens of {len(captions):,} captions would take {megabytes(need)}, more than cache.max_gib="
                f"{setup.caching.max_gib:g} leaves: captions are encoded at every update"
            )
            return None
    fill(setup, cache.shards, partial(encoder.write, cache), partial(encoder.need, cache))
    cache.open()
    if setup.ranks.first:
        encoder.check(cache, captions)
    setup.ranks.meet()
    return cache


class CaptionEncoder:
    """A step's frozen text encoder, and the form in which its tokens are kept."""

    def __init__(self, setup: StepContext) -> None:
        self.setup, self.machine = setup, setup.machine
        self.form = form_of(setup.caching.text_dtype, self.machine.precision)

    def need(self, cache: TokenCache, missing: list[int]) -> tuple[str, int]:
        """Return what is to be written, in words, and its bytes: as the lengths of some captions let expect."""
        captions = sorted((c for number in missing for c in cache.contents[number]), key=_bytes)
        every = -(-len(captions) // SAMPLED)
        some = [*captions[::every], captions[-1]]
        tokens = self._tokens_of(some)
        known = np.maximum.accumulate([_bytes(caption) for caption in some])
        row = tokens[0][0].numel() * tokens[0].element_size()
        lengths = np.interp([_bytes(caption) for caption in captions], known, [len(each) for each in tokens])
        return f"Text cache: {counted(len(captions), 'caption')}", int(lengths.sum() * row)

    def write(self, cache: TokenCache, numbers: list[int]) -> Generator[None]:
        """Write these shards, one at each step."""
        for number in numbers:
            cache.write(number, [each.numpy() for each in self._tokens_of(cache.contents[number])])
            yield

    @torch.no_grad()
    def tokens(self, captions: list[str]) -> list[Tensor]:
        """(own length, …) of each caption, as kept."""
        with self.machine.autocast():
            text = self.setup.parts["text_encoder"](captions)
        return packed_each(text.tokens, text.mask, self.form, captions)

    def check(self, cache: TokenCache, captions: list[str]) -> None:
        """Encode some captions again. UserError: their tokens are not what the cache holds."""
        draw = random.Random(derive(self.setup.seed, self.setup.name, "tokens"))
        tolerance = max(TOLERANCE[self.machine.precision], ROUNDED.get(self.form, 0.0))
        for caption in draw.sample(captions, min(CHECKED, len(captions))):
            kept = cache.read([caption])
            fresh, own = unpacked(self.tokens([caption])[0]), unpacked(kept.tokens[0, : kept.lengths[0]])
            compare(fresh, own, cache.shards.folder, caption, tolerance=tolerance)

    def _tokens_of(self, captions: list[str]) -> list[Tensor]:
        """The same of any number of captions, a micro-batch at a time."""
        micro = self.setup.length.micro_batch
        return [each for i in range(0, len(captions), micro) for each in self.tokens(captions[i : i + micro])]


def _bytes(caption: str) -> int:
    return len(caption.encode())
