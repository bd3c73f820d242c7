"""Digests of what a number depends on: SHA-256 of tensors and words, the same on every machine."""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def of_tensors(tensors: Mapping[str, Tensor], *words: str) -> str:
    """Return the SHA-256 of names, shapes, types and bytes, in the order of names, and of `words`; hexadecimal."""
    found = hashlib.sha256(repr(words).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


class Images:
    """A digest of images and captions that pass by in batches: the same however they are cut into batches."""

    def __init__(self) -> None:
        self._images, self._captions = hashlib.sha256(), hashlib.sha256()

    def add(self, images: Tensor, captions: Iterable[str]) -> None:
        """`images` uint8 (n, 3, height, width)."""
        for image, caption in zip(images.cpu(), captions, strict=True):
            self._images.update(f"{tuple(image.shape)}\n".encode())
            self._images.update(image.contiguous().numpy().data)
            self._captions.update(f"{caption!r}\n".encode())

    @property
    def images(self) -> str:
        return self._images.hexdigest()

    @property
    def with_captions(self) -> str:
        return hashlib.sha256(f"{self._images.hexdigest()} {self._captions.hexdigest()}".encode()).hexdigest()
