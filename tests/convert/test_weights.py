"""Weights against the real package `fluxflow` 0.3.1, in both directions."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fluxflow_exp.config.compose import instantiate
from fluxflow_exp.convert.weights import PREFIX, convert
from fluxflow_exp.errors import UserError
from fluxflow_exp.models import fluxflow_vae, weights
from tests.helpers.real_fluxflow import real_vae

SIZES = [(16, 32), (32, 32)]  # height, width


@cache
def theirs(dim: int) -> tuple[Any, Any]:
    vae = real_vae()
    torch.manual_seed(dim)
    compressor = vae.FluxCompressor(d_model=dim, use_gradient_checkpointing=False).eval()
    expander = vae.FluxExpander(d_model=dim, use_gradient_checkpointing=False).eval()
    return compressor, expander


def file_of(compressor: Any, expander: Any, path: Path) -> Path:
    tensors = {PREFIX["compressor"] + k: v for k, v in compressor.state_dict().items()}
    tensors |= {PREFIX["expander"] + k: v.contiguous() for k, v in expander.state_dict().items()}
    tensors["diffuser.flow_processor.vae_to_dmodel.weight"] = torch.zeros(2, 2)
    save_file(tensors, path)
    return path


def same_noise(monkeypatch: pytest.MonkeyPatch, noise: torch.Tensor) -> None:
    monkeypatch.setattr(torch, "randn_like", lambda _: noise)


def compare(
    compressor: Any, expander: Any, ours: dict[str, Any], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    height, width = size
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1
    noise = torch.randn(2, ours["compressor"].vae_dim, height // 16, width // 16)
    with torch.no_grad(), monkeypatch.context() as patched:
        same_noise(patched, noise)
        packed, mean, logvar = compressor(images, training=True)
        posterior = ours["compressor"](images)
        latents = posterior.sample(noise)
        torch.testing.assert_close(posterior.mean, mean, rtol=0, atol=1e-4)
        torch.testing.assert_close(posterior.logvar, logvar, rtol=0, atol=1e-4)
        same = torch.unflatten(packed[:, :-1].transpose(1, 2), 2, latents.shape[2:])
        torch.testing.assert_close(latents, same, rtol=0, atol=1e-4)
        # From the same latents: SPADE's norm over two places enlarges their rounding hundreds of times.
        for context in (True, False):
            wanted = expander(packed, use_context=context)
            torch.testing.assert_close(ours["expander"](same, context), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dim", [32, pytest.param(128, marks=pytest.mark.slow)])
def test_what_fluxflow_writes_loads_here_with_equal_outputs(
    tmp_path: Path, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressor, expander = theirs(dim)
    given = file_of(compressor, expander, tmp_path / "flxflow_final.safetensors")
    lines = convert(tmp_path, tmp_path / "ours.safetensors", to="ours")
    assert any("flow_processor" in line and "not convertible" in line for line in lines)
    ours = {}
    for part in ("compressor", "expander"):
        node = weights.read_facts(tmp_path / "ours.safetensors")["model"][part]
        ours[part] = instantiate(node).eval()
        ours[part].load_state_dict(weights.read_part(tmp_path / "ours.safetensors", part))
    for size in SIZES:
        compare(compressor, expander, ours, size, monkeypatch)
    convert(tmp_path / "ours.safetensors", tmp_path / "back.safetensors", to="fluxflow")
    before, after = load_file(given), load_file(tmp_path / "back.safetensors")
    kept = [k for k in before if "context_mixer" not in k and "flow_processor" not in k]
    assert all(torch.equal(before[k], after[k]) for k in kept)
    assert set(after) == {k for k in before if "flow_processor" not in k}


@pytest.mark.parametrize("dim", [32, pytest.param(128, marks=pytest.mark.slow)])
def test_what_is_written_here_loads_there_strictly_with_equal_outputs(
    tmp_path: Path, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(7)
    shared = {"vae_dim": dim, "activation": "bezier"}
    nodes = {part: {"_target_": f"fluxflow_exp.models.fluxflow_vae.{part.capitalize()}", **shared} for part in PREFIX}
    ours = {part: instantiate(node).eval() for part, node in nodes.items()}
    facts = {"index": 1, "kind": "ema", "model": nodes, "trained": dict.fromkeys(PREFIX, "vae")}
    facts |= {"text_encoder": "embed", "img_size": 32, "downscale": 4, "flow": None}
    weights.publish(tmp_path / "vae.safetensors", {p: m.state_dict() for p, m in ours.items()}, facts)
    convert(tmp_path / "vae.safetensors", tmp_path / "flxflow_final.safetensors", to="fluxflow")
    compressor, expander = theirs(dim)
    tensors = load_file(tmp_path / "flxflow_final.safetensors")
    for module, prefix in ((compressor, PREFIX["compressor"]), (expander, PREFIX["expander"])):
        module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    for size in SIZES:
        compare(compressor, expander, ours, size, monkeypatch)


def toy_file(path: Path, **more: torch.Tensor) -> Path:
    """A file with the names of a small FluxFlow autoencoder."""
    parts = {
        "compressor": fluxflow_vae.Compressor(vae_dim=8, attn_layers=1),
        "expander": fluxflow_vae.Expander(vae_dim=8),
    }
    tensors = {PREFIX[p] + k: v.contiguous() for p, m in parts.items() for k, v in m.state_dict().items()}
    save_file({**tensors, **more}, path)
    return path


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("diffuser.compressor.final_norm.weight", "0.6"),
        ("diffuser.compressor.context_proj.weight", "0.7"),
        ("diffuser.flow_processor.transformer_blocks.0.film_p0.weight", "0.8"),
    ],
)
def test_files_of_later_versions_are_refused_by_name(tmp_path: Path, name: str, version: str) -> None:
    given = toy_file(tmp_path / "later.safetensors", **{name: torch.zeros(1)})
    with pytest.raises(UserError, match=f"FluxFlow {version} or later"):
        convert(given, tmp_path / "ours.safetensors", to="ours")
    assert not (tmp_path / "ours.safetensors").exists()


def test_a_spade_without_gamma_is_of_a_later_version(tmp_path: Path) -> None:
    tensors = load_file(toy_file(tmp_path / "toy.safetensors"))
    save_file({k: v for k, v in tensors.items() if "mlp_gamma" not in k}, tmp_path / "later.safetensors")
    with pytest.raises(UserError, match="no mlp_gamma"):
        convert(tmp_path / "later.safetensors", tmp_path / "ours.safetensors", to="ours")


def test_other_files_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no FluxFlow checkpoint"):
        convert(tmp_path / "other.safetensors", tmp_path / "out.safetensors", to="ours")
    (tmp_path / "torn.safetensors").write_bytes(b"\x00" * 7)
    with pytest.raises(UserError, match="not a whole safetensors"):
        convert(tmp_path / "torn.safetensors", tmp_path / "out.safetensors", to="ours")
    with pytest.raises(UserError, match="there is no file"):
        convert(tmp_path / "absent.safetensors", tmp_path / "out.safetensors", to="ours")
    tensors = load_file(toy_file(tmp_path / "toy.safetensors"))
    del tensors["diffuser.expander.to_rgb_conv.0.weight"]
    save_file(tensors, tmp_path / "lacking.safetensors")
    with pytest.raises(UserError, match=r"to_rgb_conv\.0\.weight: None there"):
        convert(tmp_path / "lacking.safetensors", tmp_path / "out.safetensors", to="ours")


def test_a_file_without_an_autoencoder_names_one_beside_it_that_has_it(tmp_path: Path) -> None:
    more = {"kind": "ema", "model": {}, "text_encoder": "embed", "img_size": 32, "downscale": 4, "flow": None}
    for index, (step, parts) in enumerate({"vae": tuple(PREFIX), "flow": ("flow_processor",)}.items()):
        facts = {"index": index, "trained": dict.fromkeys(parts, step), **more}
        weights.publish(tmp_path / f"{step}.safetensors", {part: {"x": torch.zeros(1)} for part in parts}, facts)
    with pytest.raises(UserError) as error:
        convert(tmp_path / "flow.safetensors", tmp_path / "theirs.safetensors", to="fluxflow")
    assert str(error.value) == (
        f"{tmp_path}/flow.safetensors holds no compressor and no expander: name {tmp_path}/vae.safetensors"
    )
