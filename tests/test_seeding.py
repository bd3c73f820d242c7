"""Randomness by key."""

import subprocess
import sys

import torch

from fluxflow_exp.seeding import derive, generator


def test_the_same_keys_give_the_same_numbers_in_another_process():
    code = "from fluxflow_exp.seeding import derive; print(derive(0, 'flow', 7, 'noise'))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == derive(0, "flow", 7, "noise")


def test_every_key_matters():
    seeds = {
        derive(0, "flow", 7, "noise"),
        derive(1, "flow", 7, "noise"),
        derive(0, "vae", 7, "noise"),
        derive(0, "flow", 8, "noise"),
        derive(0, "flow", 7, "time"),
        derive(0, "flow", "7", "noise"),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_are_independent_of_the_global_state():
    first = torch.randn(8, generator=generator(3, "x"))
    torch.manual_seed(99)
    assert torch.equal(first, torch.randn(8, generator=generator(3, "x")))
