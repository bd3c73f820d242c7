"""The interface of a data set: captioned images behind an index."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from fluxflow_exp.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def digest(parts: Iterable[Any]) -> str:
    """SHA-256 of the representations of `parts`, hexadecimal."""
    found = hashlib.sha256()
    for part in parts:
        found.update(f"{part!r}\n".encode())
    return found.hexdigest()


Bad = list[tuple[str, str]]  # (id, reason) of samples that cannot be read
Choices = tuple[tuple[str, float], ...]  # the different captions of one picture, each with its weight


class Sample(NamedTuple):
    image: Tensor  # uint8 (3, height, width)
    caption: str
    id: str


def check_sample(sample: Any, source: object) -> None:
    """UserError: `sample`, which a `read` of somebody's own has given, is none."""
    kind = type(source)
    if kind.__module__.startswith("fluxflow_exp."):
        return
    import torch  # here: what indexes shards does without

    image, caption = getattr(sample, "image", None), getattr(sample, "caption", None)
    if not hasattr(sample, "id") or not isinstance(caption, str) or not isinstance(image, torch.Tensor):
        given = [type(each).__name__ for each in sample] if isinstance(sample, tuple) else type(sample).__name__
        wrong = f"a Sample(image, caption, id) of a Tensor, a str and an id, not {given}"
    elif image.dtype != torch.uint8 or image.dim() != 3 or len(image) != 3:
        wrong = f"an image of torch.uint8 (3, height, width), not {image.dtype} {tuple(image.shape)}"
    else:
        return
    raise UserError(f"{kind.__module__}.{kind.__qualname__}: read must give {wrong}")


class BadSampleError(Exception):
    """A sample that cannot be read."""

    def __init__(self, sample: str, reason: str) -> None:
        super().__init__(f"{sample}: {reason}")
        self.sample, self.reason = sample, reason


class Indexed(Protocol):
    """A finite set of samples behind an index."""

    groups: list[Any] | None  # of each index: those of one shape; a batch is made of one group. None: all have one

    def __len__(self) -> int: ...


class Contents(NamedTuple):
    """How many samples a source has, and digests of what they are: moved files are the same, changed ones are not."""

    samples: int
    names: str
    captions: str
    files: str  # sizes


def together(parts: list[Contents]) -> Contents:
    """The contents of several sources as those of one."""
    counts, *digests = zip(*parts, strict=True)
    return Contents(sum(counts), *map(digest, digests))


@runtime_checkable
class Captioned(Protocol):
    """A source that has its captions without reading a sample."""

    def captions(self) -> list[str]: ...


@runtime_checkable
class Choosing(Protocol):
    """A source some of whose samples have several captions, of which `read` chooses one."""

    def caption_choices(self, index: int) -> Choices:
        """Those of the sample at `index`; (): it has one caption."""
        ...


@runtime_checkable
class Ordered(Protocol):
    """An `Indexed` whose epochs have an order of their own."""

    def order(self, *, seed: int, epoch: int) -> list[int]:
        """The permutation of the indices for an epoch."""
        ...


@runtime_checkable
class Fetching(Ordered, Protocol):
    """A source that brings its samples from elsewhere, best in its own order, or in that of the indices."""

    def coming(self, index: int, *, seed: int | None = None, epoch: int = 0) -> None:
        """Tell that `index` is about to be read, and what follows it in an epoch; of the indices without a seed."""
        ...


class Source(Indexed, Protocol):
    """Samples by index: `read` is a function of `index` and of what it draws from `rng`."""

    @property
    def varies(self) -> str | None:
        """Why the same index may give another image or caption the next time; None: it never does."""
        ...

    def read(self, index: int, rng: random.Random) -> Sample:
        """The sample at `index`; `rng` is for augmentation alone. BadSampleError: it cannot be read."""
        ...

    def fingerprint(self, *, times: bool = True) -> str:
        """A digest that is another one when `read` would return something else; of use where nothing varies.

        `times`: files that were written again count as other files, though they may hold the same.
        """
        ...

    def contents(self) -> Contents:
        """Return which samples there are, whatever is made of them."""
        ...


@runtime_checkable
class Drawing(Protocol):
    """A source whose `read` draws one of the samples of a pool anew each time, whatever the index."""

    def pool(self) -> Source:
        """All samples that may be drawn, each once."""
        ...

    def draw(self, rng: random.Random) -> int:
        """The index in the pool of the sample that `read` would give with `rng`, which goes on with it from there."""
        ...


class Tokens(NamedTuple):
    """Captions through a text encoder."""

    tokens: Tensor  # (batch, longest, width); zeros behind a caption's own
    lengths: list[int]  # how many are a caption's own


class Rows(NamedTuple):
    """Several samples of a `Stored`."""

    values: Tensor  # (batch, channels, h, w)
    captions: list[str]
    ids: list[str]
    tokens: Tokens | None
    features: Tensor | None = None  # (batch, channels, rows, columns) bfloat16, of a teacher


@runtime_checkable
class Stored(Indexed, Protocol):
    """Samples in the form that training takes, which are read many at once."""

    def bad_at(self, index: int) -> tuple[str, str] | None:
        """(id, reason), if the sample cannot be read."""
        ...

    @property
    def chooses(self) -> bool:
        """Whether anything is drawn of a sample: one of several captions, or which one it is."""
        ...

    def place(self, index: int, rng: random.Random | None) -> int:
        """What `bad_at` and `read_rows` take for `index`: itself, or what is drawn in its place."""
        ...

    def read_rows(self, indices: list[int], rngs: list[random.Random] | None = None) -> Rows:
        """The samples; `rngs`, one for each, choose among captions as those of `Source.read` do. None: the heaviest."""
        ...


@runtime_checkable
class Stream(Protocol):
    """Samples that can only be read in order. A reader has one of `slots` slots, and each epoch its own samples."""

    epoch_size: int
    max_readers: int
    varies: str  # why the same place may give another sample the next time

    def __len__(self) -> int: ...

    def samples(
        self, *, seed: int, epoch: int, slot: int, slots: int, skip: int
    ) -> Iterator[tuple[Sample, list[tuple[str, str]]]]:
        """Endlessly, from sample `skip` of the slot on; each with the (id, reason) of bad ones just before it."""
        ...


class DataSet(Protocol):
    """The data set that a file of conf/data builds."""

    img_size: int
    train: Source | Stream
    validation: Source  # read without augmentation
    bad: list[tuple[str, str]]  # (id, reason) of samples that are known to be unusable before any is read
    notes: list[str]  # what is odd about it, one line each; for the plan
    max_bad_fraction: float
    prompts: list[str]  # held-out captions, for samples and evaluation
    reads_back: bool  # whether `score` can tell what an image shows

    def score(self, images: Tensor, captions: list[str]) -> dict[str, float]:
        """How far uint8 images (n, 3, height, width) show their captions, 0 to 1 a name; {} without `reads_back`."""
        ...


def notes_of(data: DataSet) -> list[str]:
    """Return what is odd about a data set; one of somebody's own need not say."""
    return getattr(data, "notes", [])


def sets_of(data: DataSet) -> list[str]:
    """Names of the sets that a data set is mixed of, with which the ids of its samples begin; [] for one alone."""
    return getattr(data, "sets", [])


def unaugmented(source: Any) -> Any:
    """Return the same samples as squares, without augmentation, of a `Source` that says which these are."""
    plain = getattr(source, "unaugmented", None)
    return plain() if plain else source
