"""Configurations at toy size."""

import json
from pathlib import Path

import pytest

from fluxflow_exp.config.compose import PARTS, resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.models.weights import outline
from fluxflow_exp.wiring.shrink import shrink
from tests.helpers.autoencoders import SMALL


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


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderDC"])
def test_an_autoencoder_of_diffusers_shrinks_to_one_of_the_same_stages(kind: str, tmp_path: Path) -> None:
    wide = {"latent_channels": 32, "block_out_channels": [128, 512], "norm_num_groups": 32}
    wide |= {f"{half}_block_out_channels": [128, 512] for half in ("encoder", "decoder")}
    file = tmp_path / "config.json"
    given = {**SMALL[kind], **{key: value for key, value in wide.items() if key in SMALL[kind]}}
    file.write_text(json.dumps({"_class_name": kind, **given}))
    chosen = ["stage=vae_flow", "model/autoencoder=diffusers", f"model.autoencoder.config={file}"]
    small, _ = shrink(resolve(compose_config(chosen)))
    compressor, expander, flow = (outline(small["model"][part]) for part in PARTS[:3])
    assert sum(p.numel() for part in (compressor, expander) for p in part.parameters()) < 100_000
    assert compressor.downscale == expander.upscale_by == 2
    assert compressor.vae_dim == flow.latent_mean.numel() == 16


def test_what_decides_the_mathematics_stays(tmp_path: Path) -> None:
    values = resolve(compose_config(["stage=vae_gan", "hardware=h200", "optimizer=sgd"]))
    small, changes = shrink(values)
    for key in ("trainer", "optimizers", "schedulers", "n_epochs", "ema"):
        assert small["stage"]["steps"]["vae_gan"][key] == values["stage"]["steps"]["vae_gan"][key]
    assert small["hardware"]["device"] == "cpu"
    assert values["hardware"]["device"] == "cuda"  # the original is not touched
    assert not any(key.startswith("hardware") for key in changes)
