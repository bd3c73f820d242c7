"""Randomness as a function of position: every random number is drawn from keys, never from a running state.

A key names what the number is for, e.g. (seed, step name, update, "noise"), so that a run that was interrupted,
or split over other micro-batches, draws what an undisturbed one would, and checkpoints need no generator state.
"""

import hashlib

import torch

Key = str | int


def derive(*keys: Key) -> int:
    """A 63-bit seed from `keys`; the same in every process and on every platform."""
    digest = hashlib.sha256(repr(keys).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*keys: Key, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device`, seeded by `keys`."""
    return torch.Generator(device=device).manual_seed(derive(*keys))


def seed_initialisation(seed: int, part: str) -> None:
    """Make the initial weights of `part` a function of the run's seed and its name alone."""
    torch.manual_seed(derive(seed, "initialise", part))
