"""Configurations at toy size."""

from pathlib import Path

import pytest

from fluxflow_exp.config.compose import PARTS, resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.models.weights import outline
from fluxflow_exp.wiring.shrink import shrink


@pytest.mark.parametrize("model", ["tiny", "compact", "compact_f8", "fluxflow", "fluxflow_silu"])
def test_every_shipped_model_shrinks_to_one_that_can_be_built(model: str) -> None:
    values = resolve(compose_config(["stage=full", f"model={model}"]))
    small, changes = shrink(values)
    for part in PARTS:
        assert sum(p.numel() for p in outline(small["model"][part]).parameters()) < 2_500_000, part
        depths = {"blocks", "depth", "heads", "attn_layers", "downscales", "activation"} & set(values["model"][part])
        assert all(small["model"][part][key] == values["model"][part][key] for key in depths)
    assert all(step["batch_size"] == 4 for step in small["stage"]["steps"].values())
    assert changes["stage.steps.vae.batch_size"] == (32, 4)


def test_what_decides_the_mathematics_stays(tmp_path: Path) -> None:
    values = resolve(compose_config(["stage=vae_gan", "hardware=h200", "optimizer=sgd"]))
    small, changes = shrink(values)
    for key in ("trainer", "optimizers", "schedulers", "n_epochs", "ema"):
        assert small["stage"]["steps"]["vae_gan"][key] == values["stage"]["steps"]["vae_gan"][key]
    assert small["hardware"]["device"] == "cpu"
    assert values["hardware"]["device"] == "cuda"  # the original is not touched
    assert not any(key.startswith("hardware") for key in changes)
