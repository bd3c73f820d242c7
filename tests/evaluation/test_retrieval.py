"""Retrieval of planted pictures: the very ones, others' ones, noise."""

import pytest
import torch

from fluxflow_exp.evaluation.retrieval import chance, retrieval


def features(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 32, generator=torch.Generator().manual_seed(seed)) * 3 + 1


CAPTIONS = [f"caption {i}" for i in range(40)]


def test_the_very_pictures_are_all_found_and_those_of_others_never() -> None:
    real = features(40)
    assert retrieval(real, real + 0.1 * features(40, 1), CAPTIONS, CAPTIONS, among=1) == 1
    assert retrieval(real, real.roll(1, 0), CAPTIONS, CAPTIONS, among=1) == 0
    swapped = torch.cat([real[:20], real[20:].flip(0)])
    assert retrieval(real, swapped, CAPTIONS, CAPTIONS, among=1) == 0.5


def test_noise_and_one_picture_for_all_find_as_many_as_chance() -> None:
    found = [retrieval(features(40), features(40, seed), CAPTIONS, CAPTIONS, among=5) for seed in range(1, 101)]
    assert torch.tensor(found).mean() == pytest.approx(chance(CAPTIONS, CAPTIONS, among=5), abs=0.02)
    assert chance(CAPTIONS, CAPTIONS, among=5) == pytest.approx(5 / 40)
    assert retrieval(features(40), features(1).expand(40, -1), CAPTIONS, CAPTIONS, among=5) == 5 / 40


def test_pictures_of_one_caption_are_all_right_for_it() -> None:
    captions = ["a cat", "a cat", *CAPTIONS[2:]]
    real = features(40)
    drawn = real.clone()
    drawn[[0, 1]] = real[[1, 0]]
    assert retrieval(real, drawn, captions, captions, among=1) == 1
    assert chance(captions, captions, among=1) == pytest.approx((2 * 2 / 40 + 38 / 40) / 40)


def test_pictures_of_the_same_group_alone_are_looked_at() -> None:
    styles = [("twemoji", "noto", "flat noto", "openmoji")[i % 4] for i in range(40)]
    captions = [f"caption {i // 4}, {style} style" for i, style in enumerate(styles)]
    real = features(40)
    other_style = real.roll(1, 0)  # the picture before: the same or another subject, never the same style
    assert retrieval(real, other_style, captions, captions, among=1) == 0
    similar = real + 3 * features(40, 1)
    inside = retrieval(real, similar, captions, captions, among=1, within=", (.*) style$")
    scale = [(each - real.mean(0)) / real.std(0, correction=0) for each in (similar, real)]
    cosine = torch.nn.functional.cosine_similarity(scale[0][:, None], scale[1][None], dim=2)
    best = [max((float(cosine[i, j]), j) for j in range(40) if styles[j] == styles[i])[1] for i in range(40)]
    assert inside == sum(i == j for i, j in enumerate(best)) / 40
    assert inside > retrieval(real, similar, captions, captions, among=1)
    assert chance(captions, captions, among=1, within=", (.*) style$") == pytest.approx(1 / 10)
    assert chance(captions, captions, among=5, within="noto style$") == pytest.approx(5 / 20), (
        "all others are one group"
    )
    assert chance(captions, captions, among=50, within=", (.*) style$") == 1
    mixed = torch.cat([features(40, seed)[:, None] for seed in range(2, 102)], 1).unbind(1)
    found = [retrieval(real, each, captions, captions, among=1, within=", (.*) style$") for each in mixed]
    assert torch.tensor(found).mean() == pytest.approx(0.1, abs=0.02), "noise"


def test_of_equals_the_wrong_one_is_nearer() -> None:
    real = features(40)
    real[1] = real[0]
    assert retrieval(real, real, CAPTIONS, CAPTIONS, among=1) == 38 / 40
