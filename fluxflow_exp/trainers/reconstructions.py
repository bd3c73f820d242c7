"""Pictures of what an autoencoder makes of held-out images or of given files."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fluxflow_exp import pictures
from fluxflow_exp.data.decoding import reason
from fluxflow_exp.data.transforms import open_rgb, square
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine.hardware import Machine
from fluxflow_exp.machine.portion import Portion
from fluxflow_exp.run.sample_files import GRID, ROWS
from fluxflow_exp.seeding import generator
from fluxflow_exp.trainers import shared
from fluxflow_exp.trainers.context import StepContext


def originals(setup: StepContext) -> tuple[Tensor, list[str], Portion]:
    """uint8 images, (n, 3, height, width), and their ids: a rank's portion. UserError: a given file cannot be read."""
    given = setup.samples.test_image_address
    if not given:
        batch, portion = shared.shown(setup)
        return batch.images, batch.ids, portion
    portion = Portion.even(setup.ranks, len(given))
    names = [given[place] for place in portion.places]
    return torch.stack([_square(name, setup.data.img_size) for name in names]), names, portion


@torch.no_grad()
def rows(
    images: Tensor, ids: list[str], compressor: Any, expander: Any, machine: Machine, *, seed: int, conditioned: bool
) -> dict[str, Tensor]:
    """uint8 (n, 3, height, width) on the CPU for each row of pictures, the originals first."""
    with machine.autocast():
        posterior = compressor(machine.to_device(images))
        mode = posterior.mode()
        noise = torch.stack([torch.randn(mode.shape[1:], generator=generator(seed, "sample", key)) for key in ids])
        found = {
            "-nr_o": expander(mode, conditioned),
            "_ns_o": expander(posterior.sample(noise.to(mode.device)), conditioned),
        }
        if expander.has_spade:
            found["-nc"] = expander(mode, False)
    made = {row: pictures.to_uint8(batch).cpu() for row, batch in found.items()}
    size = (images.shape[-2], images.shape[-1])
    return {"-original": images, **made, "-ctx": pictures.principal_components(mode.float().cpu(), size)}


def write(
    made: dict[str, Tensor], ids: list[str], folder: Path, stem: str, portion: Portion, *, title: str
) -> tuple[dict[str, str], list[str]]:
    """`<stem>_<hash><row>.webp` for each image and row, each rank its own, and all of them on one sheet with a `title`.

    Its name and what it shows; the hashes, in its order.
    """
    hashes = [pictures.short_hash(key) for key in portion.listed(ids)]
    for row, batch in made.items():
        shared.save(batch, [f"{stem}_{each}{row}.webp" for each in hashes], portion, folder)
    whole = [portion.whole(batch) for batch in made.values()]
    if portion.ranks.first:
        sheet = pictures.titled(pictures.rows_of(whole, labels=[ROWS[row] for row in made]), title)
        pictures.save_picture(sheet, folder / f"{stem}{GRID}", quality=95)
    return {f"{stem}{GRID}": ", ".join(ROWS[row] for row in made)}, hashes


def _square(name: str, size: int) -> Tensor:
    try:
        return square(open_rgb(Path(name).expanduser()), size)
    except OSError as error:
        raise UserError(f"samples.test_image_address: {name}: {reason(error)}") from error
