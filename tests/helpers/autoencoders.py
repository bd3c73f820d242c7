"""Small autoencoders made and saved by diffusers itself, and toy runs with them."""

from pathlib import Path
from typing import Any

import torch

from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from tests.conftest import TOY

KL: dict[str, Any] = {
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 4,
    "latent_channels": 4,
}
DC: dict[str, Any] = {
    "latent_channels": 4,
    "attention_head_dim": 4,
    **{
        f"{half}_{key}": value
        for half in ("encoder", "decoder")
        for key, value in {
            "block_types": ["ResBlock", "EfficientViTBlock"],
            "block_out_channels": [8, 16],
            "layers_per_block": [1, 1],
            "qkv_multiscales": [[], [5]],
        }.items()
    },
}
SMALL = {"AutoencoderKL": KL, "AutoencoderDC": DC}


def save(folder: Path, kind: str = "AutoencoderKL", **changed: Any) -> Any:
    """Make an autoencoder of this class with weights away from what it starts with, and save it; it is returned."""
    import diffusers

    torch.manual_seed(0)
    model = getattr(diffusers, kind)(**{**SMALL[kind], **changed}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def toy(output: Path, stage: str, *overrides: str) -> dict[str, Any]:
    """The resolved configuration of a toy run of `stage` whose autoencoder the overrides name."""
    words = [word for word in TOY if not word.startswith(("model.vae_dim", "model.compressor"))]
    chosen = [f"stage={stage}", *words, "model/autoencoder=diffusers", f"output_root={output}"]
    return resolve(compose_config([*chosen, *overrides]))
