"""A folder of images, with subfolders or not, and their captions."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from torch import Tensor

from fluxflow_exp.config.bounds import Fraction, PositiveInt, Share
from fluxflow_exp.data import copy_notes, folder_notes, several_captions, size_notes
from fluxflow_exp.data.captions import prefixed
from fluxflow_exp.data.captions_file import Captions, read_captions
from fluxflow_exp.data.images import Entry, Images, ImageTransform, check_fraction, file_state, is_held_out
from fluxflow_exp.data.transforms import check_colour

N_PROMPTS = 64


class ImageFolder:
    """Images of `data_path` and its subfolders; `captions_file` is a file of captions, or "sidecar".

    What such a file may be is said in `data/captions_file.py`. Of several captions of a picture one is chosen by
    weight each time that it is trained on; of held-out pictures the heaviest stands.

    Each image is resized to cover `img_size` × `img_size` pixels, then a square is cut in the centre or, in training,
    anywhere. With `buckets` (the longest aspect ratio, 2.0 say) it is instead a rectangle of about as many pixels and
    nearly the image's own shape, and a batch holds one shape. `reduced_min_sizes` adds smaller scales, each in
    batches of its own. `fixed_prompt_prefix` P makes a caption "P. caption". A name is held out when its SHA-256 falls
    into the first `validation_fraction` of the bins, so that adding images moves none; that of its group, where
    metadata give one (`split_group`). With `held_out_file`, a second one, its images are held out and all of the first
    are trained on. Held-out images are squares.
    ValueError: no folder, no readable captions, a name or a group in both files.
    """

    reads_back = False

    # One argument for each key of conf/data/image_folder.yaml, and `held_out_file`.
    def __init__(
        self,
        *,
        data_path: str,
        captions_file: str,
        img_size: PositiveInt = 256,
        crop: Literal["centre", "random"] = "centre",
        flip: bool = False,
        background: str = "white",
        buckets: Annotated[float, Ge(1)] | None = None,
        reduced_min_sizes: list[PositiveInt] | None = None,
        fixed_prompt_prefix: str | None = None,
        validation_fraction: Fraction = 0.1,
        max_bad_fraction: Share = 0.05,
        held_out_file: str | None = None,
    ) -> None:
        folder = Path(data_path).expanduser()
        if not folder.is_dir():
            raise ValueError(f"data_path: {folder_notes.no_folder(folder)}")
        check_fraction(validation_fraction)
        check_colour(background)
        self.img_size, self.max_bad_fraction = img_size, max_bad_fraction
        captions = read_captions(captions_file, folder, prefix=fixed_prompt_prefix)
        entries = captions.entries
        if held_out_file is None:
            held_out = [e for e in entries if is_held_out(e.side, validation_fraction)]
            trained = [e for e in entries if not is_held_out(e.side, validation_fraction)]
        else:
            apart = read_captions(held_out_file, folder, prefix=fixed_prompt_prefix, key="held_out_file")
            trained, held_out = entries, apart.entries
            _check_apart(trained, held_out)
            captions = captions.joined(apart)
        if not held_out or not trained:
            raise ValueError(
                f"{captions_file}: {len(trained)} training and {len(held_out)} held-out images; there must be some of "
                "both. Add images or change data.validation_fraction"
            )
        self.bad = captions.bad
        self.notes = self._look(folder, captions, fixed_prompt_prefix)
        transform = ImageTransform(img_size, crop, flip, background, buckets, reduced_min_sizes)
        state_of = partial(_state_in, folder)  # a function of the module's: loading processes get it pickled
        self.train = Images(trained, folder.joinpath, transform, state_of=state_of)
        self.validation = Images(
            several_captions.single(held_out),
            folder.joinpath,
            ImageTransform(img_size, background=background),
            state_of=state_of,
        )
        self.bad += self.train.bad
        self.notes += size_notes.notes(self.train) + copy_notes.notes(self.train, self.validation)
        self.prompts = list(dict.fromkeys(e.caption for e in held_out))[:N_PROMPTS]

    def _look(self, folder: Path, captions: Captions, prefix: str | None) -> list[str]:
        """Say what is odd about the names. ValueError: so many pictures are missing that a run would stop over them."""
        entries = captions.entries
        listing = folder_notes.Listing(folder, [*(entry.id for entry in entries), *captions.pictures])
        missing, total = folder_notes.missing_of(entries, listing), len(entries) + len(self.bad)
        empty = prefixed("", prefix)
        bare = ["" if empty in (e.caption, *dict(e.choices)) else e.caption for e in entries]
        found = folder_notes.notes(entries, bare, listing)
        if len(missing) > self.max_bad_fraction * total:
            raise ValueError(f"{found[0]} ({total} captions; max_bad_fraction={self.max_bad_fraction} may be bad)")
        return captions.notes + found + several_captions.notes(entries) + folder_notes.unusable(self.bad, "caption")

    def score(self, images: Tensor, captions: list[str]) -> dict[str, float]:
        """Nothing here reads captions back from images."""
        return {}


def _state_in(folder: Path, name: str) -> Any:
    return file_state(folder / name)


def _check_apart(trained: list[Entry], held_out: list[Entry]) -> None:
    """ValueError: some of what is held out is trained on as well."""
    both = sorted({entry.id for entry in held_out} & {entry.id for entry in trained})
    if both:
        raise ValueError(
            f"held_out_file: {len(both)} of its names stand in the captions_file, too, {both[0]!r} the first: what "
            "is held out is not trained on. Take them out of one of the two"
        )
    groups = {entry.group for entry in trained} - {None}
    akin = sorted(entry.id for entry in held_out if entry.group in groups)
    if akin:
        raise ValueError(
            f"held_out_file: {len(akin)} of its pictures, {akin[0]!r} the first, share a split_group with some of the "
            "captions_file, and are near copies of what is trained on. Take them out of one of the two"
        )
