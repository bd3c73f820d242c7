"""Digests change with all that a number depends on, and with nothing else."""

import torch

from fluxflow_exp.evaluation.digests import Images, of_tensors

A, B = torch.arange(6.0), torch.ones(2)


def test_tensors_are_known_by_name_shape_type_bytes_and_words() -> None:
    found = of_tensors({"a": A, "b": B}, "clip")
    assert found == of_tensors({"b": B.clone(), "a": A.view(1, 6)[0]}, "clip")
    others = [
        of_tensors({"a": A, "b": B}),
        of_tensors({"b": A, "a": B}, "clip"),
        of_tensors({"a": A.view(2, 3), "b": B}, "clip"),
        of_tensors({"a": A.view(torch.int32), "b": B}, "clip"),
        of_tensors({"a": A + 1, "b": B}, "clip"),
    ]
    assert len({found, *others}) == 6


def test_images_are_the_same_however_they_are_cut_into_batches() -> None:
    images, captions = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).view(4, 3, 2, 2), ["a", "b", "c", "d"]
    whole, parts, other, flat = Images(), Images(), Images(), Images()
    whole.add(images, captions)
    for rows in (slice(0, 1), slice(1, 4)):
        parts.add(images[rows], captions[rows])
    other.add(images, captions[::-1])
    flat.add(images.view(4, 3, 1, 4), captions)
    assert (parts.images, parts.with_captions) == (whole.images, whole.with_captions)
    assert other.images == whole.images != flat.images
    assert len({whole.images, whole.with_captions, other.with_captions}) == 3
