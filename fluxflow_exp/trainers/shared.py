"""What the ranks divide when they look at a model: held-out samples, and the pictures that are written."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fluxflow_exp import pictures
from fluxflow_exp.data.loader import Batch
from fluxflow_exp.data.reading import none_readable, read_all, spread
from fluxflow_exp.machine.portion import Portion
from fluxflow_exp.trainers.context import StepContext


def held_out(setup: StepContext, places: Sequence[int]) -> tuple[Batch, Portion]:
    """This rank's portion of the held-out samples at `places`, without those that cannot be read.

    As many rows on every rank: behind its own a rank repeats its last, or has a black image.
    UserError: none can be read, or too many cannot.
    """
    ranks = setup.ranks
    asked = Portion.even(ranks, len(places))
    own = places[asked.first : asked.first + asked.own]
    batch = read_all(setup.data.validation, own, seed=setup.seed, least=0)
    bad = ranks.gather(batch.bad)
    setup.folder.report_bad(bad, setup.data, setup.console.say)
    portion = Portion.of_own(ranks, len(batch.ids))
    if not portion.total:
        raise none_readable(bad)
    return _filled(batch, portion, setup.data.img_size), portion


def measured(setup: StepContext) -> tuple[Batch, Portion]:
    """The same of those that metrics are taken of: the first ones."""
    return held_out(setup, range(min(setup.evaluation.images, len(setup.data.validation))))


def shown(setup: StepContext) -> tuple[Batch, Portion]:
    """The same of those that pictures show: some of everywhere."""
    return held_out(setup, spread(len(setup.data.validation), setup.samples.count))


def shown_prompts(setup: StepContext) -> list[str]:
    """The user's own in their order, or held-out ones of everywhere."""
    own, held = setup.samples.sample_captions, setup.data.prompts
    return own[: setup.samples.count] if own else [held[place] for place in spread(len(held), setup.samples.count)]


def save(made: Tensor, names: Sequence[str], portion: Portion, folder: Path) -> None:
    """Write this rank's own of uint8 (each, 3, height, width); `names`: of the files of all ranks' pictures.

    Of several of one name the last one stays, whichever ranks have them.
    """
    last = {name: place for place, name in enumerate(names)}
    for place, image in enumerate(made[: portion.own], start=portion.first):
        if last[names[place]] == place:
            pictures.save(image, folder / names[place])


def write_captioned(
    made: Tensor, prompts: list[str], portion: Portion, folder: Path, stem: str, mark: str, *, title: str
) -> dict[str, str]:
    """`<stem>_<hash><mark>.webp` for each prompt, each rank its own, and all on one sheet; names and what they show."""
    names = [f"{stem}_{pictures.short_hash(prompt)}{mark}.webp" for prompt in prompts]
    save(made, names, portion, folder)
    whole = portion.whole(made)
    if portion.ranks.first:
        sheet = pictures.titled(pictures.captioned(whole, prompts), title)
        pictures.save_picture(sheet, folder / f"{stem}_grid{mark}.webp", quality=95)
    return dict(zip(names, prompts, strict=True))


def _filled(batch: Batch, portion: Portion, size: int) -> Batch:
    missing = portion.each - portion.own
    if not missing:
        return batch
    none = Batch(torch.zeros(1, 3, size, size, dtype=torch.uint8), [""], [""], [])
    last = batch._replace(images=batch.images[-1:], captions=batch.captions[-1:], ids=batch.ids[-1:])
    more = last if portion.own else none
    images = [batch.images] * bool(portion.own) + [more.images] * missing
    return batch._replace(
        images=torch.cat(images),
        captions=batch.captions + more.captions * missing,
        ids=batch.ids + more.ids * missing,
    )
