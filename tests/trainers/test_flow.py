"""Pictures of a flow step are drawn as its samples and its evaluation ask."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.helpers.trainers import build


@pytest.mark.parametrize("change", [{"sampler": "ab2"}, {"shift": 0.5}, {"guidance_interval": [0.0, 0.5]}])
def test_every_key_of_sampling_acts(tmp_path: Path, change: dict[str, object]) -> None:
    trainer, _ = build(tmp_path, "flow")
    usual = replace(trainer.setup.samples, steps=4)
    assert not torch.equal(trainer._generate(["a"], usual), trainer._generate(["a"], replace(usual, **change)))
