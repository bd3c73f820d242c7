"""Samples read as they are, in the order that is asked for."""

import random
from collections.abc import Iterable

import torch

from fluxflow_exp.data.loader import Batch
from fluxflow_exp.data.protocols import Bad, BadSampleError, Source, check_sample
from fluxflow_exp.errors import UserError
from fluxflow_exp.seeding import derive

GOLDEN = (5**0.5 - 1) / 2


def read_all(source: Source, indices: Iterable[int], *, seed: int, least: int = 1) -> Batch:
    """These samples in this order, without augmentation; those that cannot be read are left out and listed.

    UserError: fewer than `least`, 0 or 1, can be read.
    """
    good, bad = [], []
    for index in indices:
        try:
            good.append(source.read(index, random.Random(derive(seed, "read", index))))
        except BadSampleError as error:
            bad.append((error.sample, error.reason))
    if good:
        check_sample(good[0], source)
    elif least:
        raise none_readable(bad)
    images = torch.stack([s.image for s in good]) if good else torch.empty(0, dtype=torch.uint8)
    return Batch(images, [s.caption for s in good], [s.id for s in good], bad)


def none_readable(bad: Bad) -> UserError:
    first = f"{bad[0][0]}: {bad[0][1]}" if bad else "none was asked for"
    return UserError(f"none of these samples can be read; the first: {first}. Check data.data_path")


def spread(total: int, most: int) -> list[int]:
    """`most` of the places 0 … total - 1, or all: any first few of them lie spread over the whole list.

    Multiples of the golden ratio, modulo 1 (the additive recurrence, from the middle on: Roberts 2018, "The
    unreasonable effectiveness of quasirandom sequences"). Even distances would have a period, and in a list that has
    one of its own (each subject in eight styles) meet the same few again and again.
    """
    found: dict[int, None] = {}
    for i in range(2 * total):  # no gap of 2 n multiples is wider than 1/n
        if len(found) == most:
            break
        found[int((0.5 + i * GOLDEN) % 1 * total)] = None
    return list(found)
