"""A folder of images and a file of `name<TAB>caption` lines."""

import hashlib
import random
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor

from fluxflow_exp.data.sample import BadSampleError, Sample
from fluxflow_exp.data.transforms import check_colour, open_rgb, square, to_tensor

SPLIT_BINS = 1_000_000
N_PROMPTS = 64


class Entry(NamedTuple):
    name: str
    caption: str


class ImageFolder:
    """Images of `data_path`, captions of `captions_file` (UTF-8; blank lines skipped; further tabs are caption).

    Each image's short side becomes `img_size` pixels, then a square is cut in the centre or, in training, anywhere.
    `fixed_prompt_prefix` P makes a caption "P. caption". A name is held out when its SHA-256 falls into the first
    `validation_fraction` of the bins, so that adding images moves none. ValueError: no folder, no readable captions.
    """

    reads_back = False

    def __init__(
        self,
        *,
        data_path: str,
        captions_file: str,
        img_size: int = 256,
        crop: Literal["centre", "random"] = "centre",
        flip: bool = False,
        background: str = "white",
        fixed_prompt_prefix: str | None = None,
        validation_fraction: float = 0.1,
        max_bad_fraction: float = 0.05,
    ) -> None:
        folder, captions = Path(data_path).expanduser(), Path(captions_file).expanduser()
        if not folder.is_dir():
            raise ValueError(f"data_path: there is no folder {folder}")
        if not 0 < validation_fraction < 1:
            raise ValueError(f"validation_fraction must be between 0 and 1, not {validation_fraction}")
        check_colour(background)
        self.img_size, self.max_bad_fraction = img_size, max_bad_fraction
        entries, self.bad = read_captions(captions, prefix=fixed_prompt_prefix)
        held_out = [e for e in entries if is_held_out(e.name, validation_fraction)]
        trained = [e for e in entries if not is_held_out(e.name, validation_fraction)]
        if not held_out or not trained:
            raise ValueError(
                f"{captions}: {len(trained)} training and {len(held_out)} held-out images; there must be some of both. "
                "Add images or change data.validation_fraction"
            )
        self.train = _Images(folder, trained, img_size, background, crop=crop, flip=flip)
        self.validation = _Images(folder, held_out, img_size, background)
        self.prompts = list(dict.fromkeys(e.caption for e in held_out))[:N_PROMPTS]

    def score(self, images: Tensor, captions: list[str]) -> dict[str, float]:
        """Nothing here reads captions back from images."""
        return {}


def read_captions(path: Path, *, prefix: str | None = None) -> tuple[list[Entry], list[tuple[str, str]]]:
    """Entries and unusable lines (id, reason). ValueError: missing, not UTF-8, or without a single entry."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ValueError(f"captions_file: there is no file {path}") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"captions_file: {path} is not UTF-8 text (byte {error.start}); convert it, e.g. with iconv"
        ) from error
    entries, bad = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip():
            continue
        name, tab, caption = line.partition("\t")
        if not tab or not name.strip():
            bad.append((f"{path.name}:{number}", "no tab between name and caption" if not tab else "no name"))
            continue
        entries.append(Entry(name.strip(), f"{prefix}. {caption.strip()}" if prefix else caption.strip()))
    if not entries:
        raise ValueError(f"captions_file: {path} holds no line of the form name<TAB>caption")
    return entries, bad


def is_held_out(name: str, fraction: float) -> bool:
    """Whether a name belongs to the held-out `fraction`; for fraction 1/k exactly sha256(name) % k == 0."""
    number = int(hashlib.sha256(name.encode()).hexdigest(), 16)
    bins = round(1 / fraction)
    if abs(bins * fraction - 1) < 1e-9:
        return number % bins == 0
    return number % SPLIT_BINS < fraction * SPLIT_BINS


class _Images:
    def __init__(
        self,
        folder: Path,
        entries: list[Entry],
        size: int,
        background: str,
        *,
        crop: str = "centre",
        flip: bool = False,
    ) -> None:
        self.folder, self.entries, self.size, self.background = folder, entries, size, background
        self.crop, self.flip = crop, flip

    def __len__(self) -> int:
        return len(self.entries)

    def read(self, index: int, rng: random.Random) -> Sample:
        name, caption = self.entries[index]
        # Drawn before reading, so that a bad file does not shift what the next sample draws.
        place = (rng.random(), rng.random()) if self.crop == "random" else (0.5, 0.5)
        mirrored = self.flip and rng.random() < 0.5
        try:
            image = open_rgb(self.folder / name, background=self.background, at_least=self.size)
        except OSError as error:
            raise BadSampleError(name, _reason(error)) from error
        tensor = to_tensor(square(image, self.size, place=place))
        return Sample(tensor.flip(2) if mirrored else tensor, caption, name)


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return str(error).splitlines()[0]
