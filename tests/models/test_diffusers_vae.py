"""Autoencoders of diffusers against the library itself."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fluxflow_exp.config import autoencoder
from fluxflow_exp.models import weights
from fluxflow_exp.models.diffusers_vae import Compressor, Expander, weights_problem, whole
from fluxflow_exp.models.layers import Region, compile_regions
from fluxflow_exp.preflight import parts
from tests.helpers.autoencoders import save

VARIETIES: list[tuple[str, dict[str, Any]]] = [
    ("AutoencoderKL", {}),
    ("AutoencoderKL", {"latent_channels": 16, "shift_factor": 0.1, "scaling_factor": 0.36}),
    ("AutoencoderKL", {"use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": False}),
    ("AutoencoderDC", {}),
    ("AutoencoderDC", {"decoder_norm_types": ["batch_norm", "rms_norm"], "decoder_act_fns": ["relu", "silu"]}),
    ("AutoencoderDC", {"encoder_out_shortcut": False, "decoder_in_shortcut": False}),
    ("AutoencoderDC", {"downsample_block_type": "conv", "upsample_block_type": "interpolate"}),
    ("AutoencoderDC", {"encoder_layers_per_block": [0, 1], "decoder_layers_per_block": [0, 1]}),
]  # fmt: skip


def halves(folder: Path, *, trained: bool = True) -> tuple[Compressor, Expander]:
    config = autoencoder.chosen(str(folder), None)
    given = str(folder) if trained else None
    return Compressor(config=config, weights_path=given), Expander(config=config, weights_path=given)


@pytest.mark.parametrize(("kind", "changed"), VARIETIES)
def test_latents_and_reconstructions_are_the_librarys(tmp_path: Path, kind: str, changed: dict[str, Any]) -> None:
    theirs = save(tmp_path, kind, **changed)
    compressor, expander = halves(tmp_path)
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        given = theirs.encode(images)
        latents = given.latent_dist.mode() if kind == "AutoencoderKL" else given.latent
        posterior = compressor.eval()(images)
        torch.testing.assert_close(posterior.mode(), latents, rtol=0, atol=1e-5)
        torch.testing.assert_close(expander.eval()(latents), theirs.decode(latents).sample, rtol=0, atol=1e-5)
        noise = torch.randn_like(latents)
        drawn = latents + given.latent_dist.std * noise if kind == "AutoencoderKL" else latents
        torch.testing.assert_close(posterior.sample(noise), drawn, rtol=0, atol=1e-5)
    assert latents.shape == (2, compressor.vae_dim, 16 // compressor.downscale, 24 // expander.upscale_by)


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderDC"])
def test_both_states_together_are_the_librarys_and_go_back_bit_for_bit(tmp_path: Path, kind: str) -> None:
    theirs = save(tmp_path / "in", kind).state_dict()
    compressor, expander = halves(tmp_path / "in")
    assert sorted({**compressor.state_dict(), **expander.state_dict()}) == sorted(theirs)
    config = autoencoder.chosen(str(tmp_path / "in"), None)
    back = whole(config, compressor.state_dict(), expander.state_dict())
    back.save_pretrained(tmp_path / "out")
    again = type(back).from_pretrained(tmp_path / "out")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in again.state_dict().items())
    assert (tmp_path / "out" / "config.json").read_text() == (tmp_path / "in" / "config.json").read_text()
    with pytest.raises(ValueError, match=f"not the weights of such an {kind}"):
        whole(config, compressor.state_dict(), {})


def test_a_configuration_alone_gives_fresh_weights_and_an_outline_none(tmp_path: Path) -> None:
    save(tmp_path)
    torch.manual_seed(5)
    (fresh, _), (trained, _) = halves(tmp_path, trained=False), halves(tmp_path)
    assert not torch.equal(fresh.encoder.conv_in.weight, trained.encoder.conv_in.weight)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    config = {**trained_config(tmp_path)}
    node = {"_target_": f"{Compressor.__module__}.Compressor", "config": config, "weights_path": str(tmp_path)}
    assert all(parameter.is_meta for parameter in weights.outline(node).parameters())
    with pytest.raises(ValueError, match="there are no weights"):
        Compressor(config=config, weights_path=str(tmp_path))


def trained_config(folder: Path) -> dict[str, Any]:
    return autoencoder.chosen(None, str(folder / "config.json"))


def test_weights_in_half_precision_become_masters_in_float32(tmp_path: Path) -> None:
    theirs = save(tmp_path / "whole").half()
    theirs.save_pretrained(tmp_path / "half", variant="fp16")
    compressor, _ = halves(tmp_path / "half")
    assert compressor.encoder.conv_in.weight.dtype == torch.float32
    torch.testing.assert_close(compressor.encoder.conv_in.weight.half(), theirs.encoder.conv_in.weight)


def test_weights_of_another_configuration_are_refused(tmp_path: Path) -> None:
    save(tmp_path)
    config = trained_config(tmp_path)
    for changed, said in (({"layers_per_block": 2}, "see "), ({"latent_channels": 8}, "not those of its config.json")):
        (tmp_path / "config.json").write_text(json.dumps({**config, **changed}))
        with pytest.raises(ValueError, match=said):
            halves(tmp_path)


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderDC"])
def test_by_headers_alone_the_first_tensor_of_another_configuration_is_named_once(tmp_path: Path, kind: str) -> None:
    save(tmp_path, kind).save_pretrained(tmp_path, max_shard_size="20KB")
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink(missing_ok=True)
    config = trained_config(tmp_path)
    nodes = {
        part: {"_target_": f"{half.__module__}.{half.__name__}", "config": config, "weights_path": str(tmp_path)}
        for part, half in (("compressor", Compressor), ("expander", Expander))
    }
    assert parts._folders(nodes, list(nodes)) == []
    for node in nodes.values():
        node["config"] = {**config, "latent_channels": 8}
    (line,) = parts._folders(nodes, list(nodes))
    named = r"encoder.conv_out.weight is \d+x\d+x3x3 in the file and \d+x\d+x3x3 by config.json"
    assert re.match(
        rf"model.autoencoder.path={tmp_path}: diffusion_pytorch_model\S+ does not fit config.*{named}", line
    )


def test_names_of_older_files_are_taken_and_tensors_too_few_or_too_many_are_not(tmp_path: Path) -> None:
    state = save(tmp_path).state_dict()
    file, config = tmp_path / "diffusion_pytorch_model.safetensors", trained_config(tmp_path)
    older = {re.sub(r"to_out\.0", "proj_attn", name).replace("to_q", "query"): each for name, each in state.items()}
    older = {name.replace("to_k", "key").replace("to_v", "value"): tensor for name, tensor in older.items()}
    assert older.keys() != state.keys()
    name = "decoder.conv_in.bias"
    for tensors, said in (
        (older, None),
        (
            {key: tensor for key, tensor in state.items() if key != name},
            f"{name} is absent in the file and 8 by config.json",
        ),
        ({**state, "more": torch.zeros(3, 2)}, "more is 3x2 in the file and absent by config.json"),
    ):
        save_file(tensors, file)
        with torch.device("meta"):
            found = weights_problem(config, str(tmp_path))
        assert found is None if said is None else said in str(found)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"norm_num_groups": 3}, "no AutoencoderKL can be built of it"),
        ({"down_block_types": ["Nothing", "Nothing"]}, "no AutoencoderKL can be built of it"),
        ({"of_tomorrow": 1}, "has no of_tomorrow: take another version of the library"),
        ({"_class_name": "AutoencoderTiny"}, r"its _class_name is 'AutoencoderTiny'.*takes AutoencoderKL and"),
    ],
)
def test_what_cannot_be_built_is_said(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    save(tmp_path)
    with pytest.raises(ValueError, match=said):
        Expander(config={**trained_config(tmp_path), **changed})


def test_sides_that_the_grid_does_not_divide_are_refused(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(ValueError, match="multiples of 2, not 16x15"):
        halves(tmp_path)[0](torch.zeros(1, 3, 15, 16))


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderDC"])
def test_training_draws_nothing_and_changes_no_statistics(tmp_path: Path, kind: str) -> None:
    changed = {"decoder_norm_types": ["batch_norm", "rms_norm"]} if kind == "AutoencoderDC" else {}
    save(tmp_path, kind, **changed)
    images = torch.rand(2, 3, 16, 16)
    for half, given in zip(halves(tmp_path), (images, torch.rand(2, 4, 8, 8)), strict=True):
        before = {name: tensor.clone() for name, tensor in half.named_buffers()}
        state = torch.random.get_rng_state()
        call = half.moments if isinstance(half, Compressor) else half
        trained = call(given)
        assert half.training
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.equal(trained, (half.eval().moments if isinstance(half, Compressor) else half.eval())(given))
        assert all(torch.equal(tensor, before[name]) for name, tensor in half.named_buffers())


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderDC"])
def test_activations_that_are_computed_again_give_the_same_gradients(tmp_path: Path, kind: str) -> None:
    save(tmp_path, kind)
    found = []
    for on in (False, True):
        compressor, expander = halves(tmp_path)
        compressor.checkpointing = expander.checkpointing = on
        runs = [0]
        inner = next(module for name, module in expander.named_modules() if name.endswith("conv1"))
        inner.register_forward_hook(lambda *_, runs=runs: runs.__setitem__(0, runs[0] + 1))
        expander(compressor(torch.ones(1, 3, 8, 8)).mode()).square().sum().backward()
        found.append([p.grad.clone() for half in (compressor, expander) for p in half.parameters()])
        assert runs[0] == 1 + on
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderDC"])
def test_nearly_all_layers_stand_in_regions(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, kind)
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: compiled.append(self))
    for half in halves(tmp_path):
        compile_regions(half)
        inside = {id(p) for region in compiled for p in region.parameters()}
        assert all(isinstance(region, Region) for region in compiled)
        outside = [name for name, p in half.named_parameters() if id(p) not in inside]
        at_the_ends = {"quant_conv", "post_quant_conv", "norm_out"}
        assert {name.split(".")[-2] for name in outside} <= at_the_ends
