"""The reader reads what was drawn, and nothing else."""

import random

import pytest
import torch
import torch.nn.functional as F

from fluxflow_exp.data.shapes import Shapes
from fluxflow_exp.data.shapes_reader import NOTHING, read_shape


def drawings(size, count):
    data = Shapes(img_size=size)
    samples = [data.train.read(i, random.Random(0)) for i in range(count)]
    return data, torch.stack([s.image for s in samples]), [s.caption for s in samples]


@pytest.mark.parametrize(("size", "count"), [(32, 400), (64, 150)])
def test_it_reads_its_own_drawings(size, count):
    data, images, captions = drawings(size, count)
    assert data.score(images, captions)["prompt_accuracy"] >= 0.99


def test_it_reads_through_noise_and_blur():
    data, images, captions = drawings(32, 200)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * 8
    noisy = (images + noise).clamp(0, 255).to(torch.uint8)
    assert data.score(noisy, captions)["prompt_accuracy"] >= 0.98
    blurred = F.avg_pool2d(F.pad(images.float(), (1, 1, 1, 1), mode="replicate"), 3, 1).to(torch.uint8)
    assert data.score(blurred, captions)["prompt_accuracy"] >= 0.98


def test_wrong_captions_score_by_what_they_share():
    data, images, captions = drawings(32, 200)
    wrong = [c.replace("circle", "@").replace("square", "circle").replace("@", "square") for c in captions]
    score = data.score(images, wrong)
    changed = sum(a != b for a, b in zip(captions, wrong, strict=True)) / len(captions)
    assert changed > 0.2
    assert score["prompt_accuracy_kind"] == pytest.approx(1 - changed, abs=0.02)
    assert score["prompt_accuracy_colour"] >= 0.99


def test_what_is_no_shape_is_read_as_nothing():
    plain = torch.zeros(3, 32, 32, dtype=torch.uint8)
    assert read_shape(plain) == (NOTHING, NOTHING, "black")
    stripes = plain.clone()
    stripes[:, :, 8::8] = 255
    stripes[:, :, 9::8] = 255
    assert read_shape(stripes)[0] == NOTHING


def test_noise_is_read_right_no_more_often_than_by_chance():
    data, images, captions = drawings(32, 300)
    noise = torch.randint(0, 256, images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert data.score(noise, captions)["prompt_accuracy"] <= 0.02
