"""Pictures of what an autoencoder makes of held-out images or of given files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fluxflow_exp import pictures
from fluxflow_exp.data.decoding import reason
from fluxflow_exp.data.loader import read_all
from fluxflow_exp.data.transforms import open_rgb, square
from fluxflow_exp.errors import UserError
from fluxflow_exp.run.sample_files import GRID, ROWS
from fluxflow_exp.seeding import generator

if TYPE_CHECKING:
    from fluxflow_exp.trainers.autoencoder import AutoencoderTrainer


def write(trainer: AutoencoderTrainer, suffix: str) -> None:
    """`<step>_<index>_<suffix>_<hash><row>.webp` for each image and row, and all of them on one sheet."""
    setup = trainer.setup
    images, ids = _images(trainer)
    with trainer.averaged():
        made = {"-original": images, **_made(trainer, images, ids)}
    stem = f"{setup.name}_{setup.index:03d}_{suffix}"
    for row, batch in made.items():
        for image, key in zip(batch, ids, strict=True):
            pictures.save(image, setup.folder.samples / f"{stem}_{pictures.short_hash(key)}{row}.webp")
    sheet = pictures.rows_of(list(made.values()), labels=[ROWS[row] for row in made])
    pictures.save_picture(sheet, setup.folder.samples / f"{stem}{GRID}", quality=95)
    trainer.write_row("samples", {}, pictures={f"{stem}{GRID}": ", ".join(ROWS[row] for row in made)})


@torch.no_grad()
def _made(trainer: AutoencoderTrainer, images: Tensor, ids: list[str]) -> dict[str, Tensor]:
    """uint8 (n, 3, height, width) on the CPU for each row but the originals."""
    conditioned = trainer.spade != "never"
    with trainer.machine.autocast():
        posterior = trainer.compressor(trainer.to_device(images))
        mode = posterior.mode()
        noise = torch.stack(
            [torch.randn(mode.shape[1:], generator=generator(trainer.setup.seed, "sample", key)) for key in ids]
        )
        found = {
            "-nr_o": trainer.expander(mode, conditioned),
            "_ns_o": trainer.expander(posterior.sample(noise.to(mode.device)), conditioned),
        }
        if trainer.expander.has_spade:
            found["-nc"] = trainer.expander(mode, False)
    made = {row: pictures.to_uint8(batch).cpu() for row, batch in found.items()}
    size = (images.shape[-2], images.shape[-1])
    return {**made, "-ctx": pictures.principal_components(mode.float().cpu(), size)}


def _images(trainer: AutoencoderTrainer) -> tuple[Tensor, list[str]]:
    """uint8 images and their ids. UserError: a given file cannot be read."""
    setup = trainer.setup
    given = setup.samples.test_image_address
    if not given:
        count = min(setup.samples.count, len(setup.data.validation))
        batch = read_all(setup.data.validation, range(count), seed=setup.seed)
        setup.folder.report_bad(batch.bad, setup.data, setup.console.say)
        return batch.images, batch.ids
    return torch.stack([_square(name, setup.data.img_size) for name in given]), list(given)


def _square(name: str, size: int) -> Tensor:
    try:
        return square(open_rgb(Path(name).expanduser()), size)
    except OSError as error:
        raise UserError(f"samples.test_image_address: {name}: {reason(error)}") from error
