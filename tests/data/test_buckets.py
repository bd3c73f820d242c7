"""Aspect-ratio buckets and scales: shapes, assignment, batches of one shape."""

import json
import random

import pytest
from PIL import Image

from fluxflow_exp.data.buckets import bucket_sizes, nearest, variants
from fluxflow_exp.data.images import is_held_out
from fluxflow_exp.data.loader import epoch_batches, updates_per_epoch
from fluxflow_exp.data.transforms import fit
from tests.conftest import TOY_STEPS, TOY_WITHOUT_DATA
from tests.helpers.datasets import batches, image_folder, noise, write_folder

BROKEN = next(f"{i}.png" for i in range(60) if not is_held_out(f"{i}.png", 0.1))


def test_buckets_have_about_as_many_pixels_and_sides_of_sixteen():
    found = bucket_sizes(512, 2.0)
    assert found[0] == (512, 512)
    assert len(found) == len(set(found)) >= 5
    for height, width in found:
        assert height % 16 == width % 16 == 0
        assert height * width == pytest.approx(512**2, rel=0.05)
        assert max(height / width, width / height) <= 2.0
        assert (width, height) in found


def test_no_bucket_but_the_square_for_a_ratio_of_one():
    assert bucket_sizes(64, 1.0) == [(64, 64)]
    with pytest.raises(ValueError, match="at least 1"):
        bucket_sizes(64, 0.5)


def test_the_nearest_shape_cuts_little():
    choices = bucket_sizes(256, 2.0)
    for size in [(300, 400), (1000, 500), (256, 256), (400, 300)]:
        height, width = nearest(size, choices)
        kept = min(width / size[1] / (height / size[0]), height / size[0] / (width / size[1]))
        assert kept > 0.85, size


def test_each_scale_below_an_image_is_a_variant_of_it():
    found = variants([(100, 80), (64, 64)], img_size=64, max_ratio=None, reduced_min_sizes=[32, 48])
    assert found == [(0, (64, 64)), (0, (32, 32)), (0, (48, 48)), (1, (64, 64)), (1, (32, 32)), (1, (48, 48))]
    assert variants([(40, 40)], img_size=64, max_ratio=None, reduced_min_sizes=[48]) == [(0, (64, 64))]


def test_an_image_is_cut_and_never_stretched():
    image = Image.new("RGB", (200, 100))
    image.paste("white", (75, 25, 125, 75))  # a square
    cut = fit(image, (64, 96))
    assert cut.shape == (3, 64, 96)
    rows, columns = (cut[0] > 127).nonzero().unbind(1)
    assert rows.max() - rows.min() > 20
    assert abs((rows.max() - rows.min()) - (columns.max() - columns.min())) <= 1


@pytest.fixture
def mixed(tmp_path):
    sizes = [(40, 40), (80, 40), (40, 80)] * 20
    write_folder(tmp_path, [picture for size in sizes for picture in noise(1, size)])
    (tmp_path / "images" / BROKEN).write_bytes(b"no picture")
    return tmp_path


def loaded(data, workers=0):
    return batches(data.train, updates_per_epoch(data.train, 4), workers=workers)


def test_batches_hold_one_shape_and_every_shape_occurs(mixed):
    data = image_folder(mixed, img_size=64, buckets=2.0)
    assert [name for name, _ in data.bad] == [BROKEN]
    found = loaded(data)
    shapes = {tuple(b.images.shape[-2:]) for b in found}
    assert len(shapes) == 3
    assert (64, 64) in shapes
    seen = [name for b in found for name in b.ids]
    assert len(seen) == len(set(seen)) == 4 * len(found)
    again = loaded(data, workers=2)
    assert [b.ids for b in again] == [b.ids for b in found]
    assert data.validation.read(0, random.Random(0)).image.shape == (3, 64, 64)


def test_reduced_scales_come_in_their_own_batches(mixed):
    found = loaded(image_folder(mixed, img_size=64, reduced_min_sizes=[16]))
    assert {tuple(b.images.shape[-2:]) for b in found} == {(64, 64), (16, 16)}


def test_shapes_are_mixed_within_an_epoch_and_differ_between_epochs(mixed):
    source = image_folder(mixed, img_size=64, buckets=2.0).train
    first, second = (epoch_batches(source, 4, seed=0, epoch=e) for e in (0, 1))
    assert first != second
    shapes = [source.groups[b[0]] for b in first]
    assert shapes != sorted(shapes)


def test_a_scale_that_is_none_is_refused(mixed):
    with pytest.raises(ValueError, match="multiple of 16 below img_size=64"):
        image_folder(mixed, img_size=64, reduced_min_sizes=[20])


def test_a_pipeline_trains_on_buckets(mixed, tmp_path):
    from fluxflow_exp import pipeline
    from fluxflow_exp.config.compose import resolve
    from fluxflow_exp.config.overrides import compose_config

    data = ["data=image_folder", f"data.data_path={mixed / 'images'}", f"data.captions_file={mixed / 'captions.tsv'}"]
    data += [
        "data.img_size=64",
        "data.buckets=2.0",
        "data.reduced_min_sizes=[32]",
        "samples.count=1",
        f"output_root={tmp_path / 'out'}",
    ]
    steps = [o.replace("batch_size=8", "batch_size=4") for o in TOY_STEPS if "n_epochs" not in o]
    steps += [f"stage.steps.{name}.n_epochs=1" for name in ("vae", "vae_gan", "flow")]
    pipeline.run(resolve(compose_config(["stage=quickstart", *TOY_WITHOUT_DATA, *steps, *data])))
    assert json.loads((tmp_path / "out" / "quickstart" / "summary.json").read_text())["metrics"]["val_psnr"] > 0
