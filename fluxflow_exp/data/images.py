"""Captioned images as a source of samples, wherever their bytes are."""

import hashlib
import io
import random
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import track

from fluxflow_exp.data.buckets import Size, Variant, check_scales, variants
from fluxflow_exp.data.caption_choice import chosen
from fluxflow_exp.data.decoding import decoding, reason
from fluxflow_exp.data.kept_sizes import KeptSizes
from fluxflow_exp.data.protocols import Bad, BadSampleError, Choices, Contents, Sample, digest
from fluxflow_exp.data.transforms import fit, open_rgb, upright_size

SPLIT_BINS = 1_000_000


class Entry(NamedTuple):
    id: str
    caption: str
    place: Any  # what `read_bytes` needs to find it
    group: str | None = None  # pictures of one are on the same side of the held-out split
    choices: Choices = ()  # if it has several captions; `caption` is the heaviest of them

    @property
    def side(self) -> str:
        """The name by which it is held out or not."""
        return self.id if self.group is None else self.group

    @property
    def captions(self) -> Any:
        """What digests are made of: its one caption, or all with their weights."""
        return self.choices or self.caption

    @property
    def weighted(self) -> Choices:
        """All its captions with their weights."""
        return self.choices or ((self.caption, 1.0),)


class ImageTransform(NamedTuple):
    """How images become training samples."""

    img_size: int
    crop: str = "centre"  # centre | random
    flip: bool = False
    background: str = "white"
    max_ratio: float | None = None
    reduced_min_sizes: list[int] | None = None

    def __repr__(self) -> str:
        """As it stands in the fingerprints of data that runs hold."""
        return f"Look({', '.join(f'{name}={value!r}' for name, value in self._asdict().items())})"

    @property
    def varies(self) -> str | None:
        if self.crop == "random":
            return "data.crop=random cuts each image anew"
        return "data.flip=true mirrors images at random" if self.flip else None

    def sizes_matter(self) -> bool:
        return self.max_ratio is not None or bool(self.reduced_min_sizes)


class Images:
    """`entries` read through `file_of(place)`, a path or an open file. Bad ones raise BadSampleError.

    `state_of(place)` is something that is another one after the bytes there have changed.

    With buckets or several scales the index runs over variants, and `groups` says which of them share a shape; then
    every image's header is read once at the start, and those that have none are listed in `bad`.
    """

    groups: list[Size] | None = None

    def __init__(
        self,
        entries: list[Entry],
        file_of: Callable[[Any], Path | io.BytesIO],
        transform: ImageTransform,
        *,
        state_of: Callable[[Any], Any],
    ) -> None:
        check_scales(transform.img_size, transform.reduced_min_sizes)
        self.entries, self.file_of, self.transform, self.state_of = entries, file_of, transform, state_of
        self.bad: Bad = []
        self.variants: list[Variant] | None = None
        if transform.sizes_matter():
            self._lay_out()

    def __len__(self) -> int:
        return len(self.entries) if self.variants is None else len(self.variants)

    def read(self, index: int, rng: random.Random) -> Sample:
        square = (self.transform.img_size, self.transform.img_size)
        entry, size = self._entry(index), square if self.variants is None else self.variants[index].size
        return load(entry, lambda: self.file_of(entry.place), self.transform, size, rng)

    def caption_choices(self, index: int) -> Choices:
        return self._entry(index).choices

    def unaugmented(self) -> "Images":
        """The same images as they are: squares cut in the middle."""
        plain = ImageTransform(self.transform.img_size, background=self.transform.background)
        entries = [entry._replace(choices=()) for entry in self.entries]
        return Images(entries, self.file_of, plain, state_of=self.state_of)

    @property
    def varies(self) -> str | None:
        return self.transform.varies

    def fingerprint(self, *, times: bool = True) -> str:
        entries = ((entry.id, entry.captions, self._state(entry, times=times)) for entry in self.entries)
        return digest(chain([self.transform], entries, self.variants or []))

    def kept_sizes(self) -> KeptSizes:
        first = self.entries[0].place if self.entries else None
        return KeptSizes(self.file_of(first) if isinstance(first, str | Path) else None, len(self.entries))

    def size(self, entry: Entry, known: KeptSizes) -> Size:
        """(height, width) of a picture as it will be shown. OSError: it has none."""
        return known.size(entry.id, self.state_of(entry.place), lambda: upright_size(self.file_of(entry.place)))

    def captions(self) -> list[str]:
        return [caption for entry in self.entries for caption, _ in entry.weighted]

    def contents(self) -> Contents:
        ids, captions = (entry.id for entry in self.entries), (entry.captions for entry in self.entries)
        states = (self._state(entry, times=False) for entry in self.entries)
        return Contents(len(self.entries), digest(ids), digest(captions), digest(states))

    def _entry(self, index: int) -> Entry:
        return self.entries[index if self.variants is None else self.variants[index].image]

    def _state(self, entry: Entry, *, times: bool) -> Any:
        state = self.state_of(entry.place)
        return state if times or state is None else state[:-1]  # a file's time is the last in it

    def _lay_out(self) -> None:
        sizes, kept = [], []
        known = self.kept_sizes()
        for entry in track(self.entries, description="Reading image sizes"):
            try:
                with decoding():
                    sizes.append(self.size(entry, known))
                kept.append(entry)
            except OSError as error:
                self.bad.append((entry.id, reason(error)))
        known.keep()
        self.entries = kept
        self.variants = variants(
            sizes,
            img_size=self.transform.img_size,
            max_ratio=self.transform.max_ratio,
            reduced_min_sizes=self.transform.reduced_min_sizes,
        )
        self.groups = [variant.size for variant in self.variants]


def load(
    entry: Entry,
    opened: Callable[[], Path | io.BytesIO],
    transform: ImageTransform,
    size: Size,
    rng: random.Random,
) -> Sample:
    """The image of `entry` at (height, width) `size` with a caption. BadSampleError: it cannot be read."""
    # Drawn before reading, so that a bad file does not shift what the next sample draws.
    place = (rng.random(), rng.random()) if transform.crop == "random" else (0.5, 0.5)
    mirrored = transform.flip and rng.random() < 0.5
    try:
        with decoding():
            image = open_rgb(opened(), background=transform.background, at_least=max(size))
            tensor = fit(image, size, place=place)
    except OSError as error:
        raise BadSampleError(entry.id, reason(error)) from error
    # Chosen after reading, so that a bad file, which another sample stands in for, draws nothing.
    caption = chosen(entry.choices, rng) if entry.choices else entry.caption
    return Sample(tensor.flip(2) if mirrored else tensor, caption, entry.id)


def file_state(path: Path) -> tuple[int, int] | None:
    """Size and time of change (ns) of a file; None: there is none, or none can have this name."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


def is_held_out(name: str, fraction: float) -> bool:
    """Whether a name belongs to the held-out `fraction`; for fraction 1/k exactly sha256(name) % k == 0.

    A larger fraction holds out all that a smaller one does where both are 1/k and the smaller one's k is a multiple of
    the larger one's, or where neither is 1/k. Others share names by chance alone: runs are begun with all of them, so
    that none can be another set.
    """
    number = int(hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest(), 16)
    bins = round(1 / fraction)
    if abs(bins * fraction - 1) < 1e-9:
        return number % bins == 0
    return number % SPLIT_BINS < fraction * SPLIT_BINS


def check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"validation_fraction must be between 0 and 1, not {fraction}")
