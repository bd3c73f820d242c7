"""Sample pictures: what each file holds, and when it is made."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fluxflow_exp import pictures, pipeline
from fluxflow_exp.data.reading import spread
from fluxflow_exp.preflight.check import problems
from fluxflow_exp.report import gallery
from fluxflow_exp.report.panels import Track
from fluxflow_exp.run.metric_log import read_rows
from tests.conftest import toy
from tests.helpers.trainers import build, ready_to_draw

SPADE = ["stage.steps.vae_gan_spade.batch_size=8"]


def picture(folder: Path, suffix: str) -> Any:
    (path,) = folder.glob(f"*{suffix}.webp")
    return pixels(path)


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1)


def test_each_suffix_holds_what_it_says(tmp_path: Path) -> None:
    trainer, _ = build(tmp_path, "vae_gan_spade", *SPADE, "samples.count=1", stage="vae_gan_spade")
    folder = ready_to_draw(trainer)
    trainer.sample_pictures("001")
    held_out = trainer.setup.data.validation
    original = held_out.read(spread(len(held_out), 1)[0], None).image
    assert torch.equal(picture(folder, "-original"), original)
    with trainer.averaged(), torch.no_grad():
        mode = trainer.compressor(trainer.machine.to_device(original[None])).mode()
        expected = {
            "-nr_o": pictures.to_uint8(trainer.expander(mode, True)),
            "-nc": pictures.to_uint8(trainer.expander(mode, False)),
            "-ctx": pictures.principal_components(mode, (16, 16)),
        }
    for suffix, image in expected.items():
        assert torch.equal(picture(folder, suffix), image[0]), suffix
    sampled = picture(folder, "_ns_o")
    assert not torch.equal(sampled, expected["-nr_o"][0])
    trainer.sample_pictures("002")
    again = {p.name.split("_", 4)[-1]: p.read_bytes() for p in folder.glob("*_002_*_ns_o.webp")}
    assert len(again) == 1  # the noise of an image stays the same from epoch to epoch
    assert next(iter(again.values())) == next(folder.glob("*_001_*_ns_o.webp")).read_bytes()


def test_a_card_shows_the_pictures_in_the_order_of_the_sheet(tmp_path: Path) -> None:
    trainer, _ = build(tmp_path, "vae", "samples.count=5")
    folder = trainer.setup.folder
    ready_to_draw(trainer)
    trainer.sample_pictures("001")
    held_out = trainer.setup.data.validation
    shown = [held_out.read(place, None).image for place in spread(len(held_out), 5)]
    (frame,) = gallery.frames(Track({"vae": read_rows(folder.metrics("vae"))}), folder.samples)
    assert frame.drawn == "0 images seen, averaged weights"
    rows = {label: [path for path, _ in items] for label, items in frame.rows}
    for path, image in zip(rows["original"], shown, strict=True):
        assert torch.equal(pixels(path), image)
    with Image.open(next(folder.samples.glob("*_grid.webp"))) as sheet:
        for place, image in enumerate(shown):  # ground and shape are of one colour each
            left, top = 110 + place * (6 * 16 + 4), sheet.height - 4 * (6 * 16 + 4)  # below its title: four rows
            assert sheet.getpixel((left + 4, top + 4)) == pytest.approx(image[:, 0, 0].tolist(), abs=12)
    hashes = [[path.name.split("_")[3][:6] for path in paths] for paths in rows.values()]
    assert all(each == hashes[0] for each in hashes)


def test_components_are_the_directions_of_largest_spread() -> None:
    latents = torch.zeros(1, 5, 2, 2)
    latents[0, 3] = torch.tensor([[10.0, 0.0], [10.0, 0.0]])
    latents[0, 1] = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    shown = pictures.principal_components(latents, (4, 4))[0]
    assert shown[0, :, 0].tolist() == [255] * 4
    assert shown[0, :, 2].tolist() == [0] * 4
    assert shown[1, 0].tolist() == [0] * 4
    assert shown[1, 2].tolist() == [255] * 4


def test_given_files_captions_and_sizes_are_drawn(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (200, 10, 10)).save(tmp_path / "mine.png")
    chosen = [
        f"samples.test_image_address=[{tmp_path / 'mine.png'}]",
        "samples.sample_captions=[a red circle on a blue ground]",
        "samples.sample_sizes=[16,[32,16]]",
        "~stage.steps.vae_gan",
    ]
    pipeline.run(toy(tmp_path, *chosen))
    folder = tmp_path / "quickstart" / "samples"
    originals = list(folder.glob("vae_001_002_*-original.webp"))
    assert len(originals) == 1
    assert Image.open(originals[0]).size == (16, 16)
    assert Image.open(originals[0]).getpixel((8, 8)) == (200, 10, 10)
    sizes = {
        p.name.rpartition("-")[2]: Image.open(p).size
        for p in folder.glob("flow_002_002_*-*.webp")
        if "grid" not in p.name
    }
    assert sizes == {"16.webp": (16, 16), "32x16.webp": (32, 16)}


def test_files_and_sizes_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    given = f"samples.test_image_address=[absent.png,{'x' * 300},{tmp_path}/torn.png]"
    found = problems(toy(tmp_path, given, "samples.sample_sizes=[[1,2,3]]"))
    for reason in (
        "absent.png: there is no such file",
        "xxx: File name too long",
        "torn.png: is no picture of a known",
    ):
        assert any(reason in line for line in found)
    assert any("[width, height], not [1, 2, 3]" in line for line in found)


def test_samples_come_with_every_nth_checkpoint(tmp_path: Path) -> None:
    chosen = ["checkpoint.every_updates=1", "samples.samples_per_checkpoint=3", "samples.every_epochs=null"]
    only = ["~stage.steps.vae_gan", "~stage.steps.flow"]
    pipeline.run(toy(tmp_path, *chosen, *only))
    names = {p.name for p in (tmp_path / "quickstart" / "samples").glob("*_grid.webp")}
    assert names == {"vae_001_001_00003_grid.webp", "vae_001_002_00002_grid.webp"}
