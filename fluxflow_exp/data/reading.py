"""Samples read as they are, in the order that is asked for."""

import random
from collections.abc import Iterable

import torch

from fluxflow_exp.data.loader import Batch
from fluxflow_exp.data.protocols import Bad, BadSampleError, Source, check_sample
from fluxflow_exp.errors import UserError
from fluxflow_exp.seeding import derive


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
