"""Pictures of a flow step are drawn as its samples and its evaluation ask, and say so."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fluxflow_exp.run.metric_log import read_rows
from tests.helpers.trainers import build, ready_to_draw


@pytest.mark.parametrize("change", [{"sampler": "ab2"}, {"shift": 0.5}, {"guidance_interval": [0.0, 0.5]}])
def test_every_key_of_sampling_acts(tmp_path: Path, change: dict[str, object]) -> None:
    trainer, _ = build(tmp_path, "flow")
    usual = replace(trainer.setup.samples, steps=4)
    assert not torch.equal(trainer._generate(["a"], usual), trainer._generate(["a"], replace(usual, **change)))


@pytest.mark.parametrize(
    ("overrides", "how"),
    [
        (["samples.guidance_scale=2.5"], "guidance 2.5, averaged weights"),
        (["stage.steps.flow.cfg_dropout_prob=0", "stage.steps.flow.ema=null"], "guidance 1, raw weights"),
    ],
    ids=["guided", "plain"],
)
def test_pictures_say_with_what_they_were_made(tmp_path: Path, overrides: list[str], how: str) -> None:
    trainer, _ = build(tmp_path, "flow", *overrides, "samples.count=2", "stage.steps.flow.batch_size=8")
    ready_to_draw(trainer)
    trainer.update_index = 3
    trainer.sample_pictures("001")
    (row,) = read_rows(trainer.rows.path)
    assert row["drawn"] == f"24 images seen, {how}"
    assert trainer.title(row["drawn"]) == f"Step flow, update 3 (epoch 1): 24 images seen, {how}"
