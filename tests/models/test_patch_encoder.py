"""Patch features of models that the real libraries have saved: what the model itself gives, in its places."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxflow_exp.errors import UserError
from fluxflow_exp.models import patch_encoder
from fluxflow_exp.models.patch_encoder import fingerprint, load, on_grid
from tests.helpers.networks import small_timm

SIDE, PATCH, WIDTH = 32, 8, 16
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
MLP = {"intermediate_size": WIDTH}
VISION = {"image_size": SIDE, "patch_size": PATCH}
SQUARE = {"height": SIDE, "width": SIDE}


def dinov2() -> tuple[Any, Any]:
    config = transformers.Dinov2WithRegistersConfig(**SIZES, image_size=40, patch_size=PATCH)
    cut = transformers.BitImageProcessor(size={"shortest_edge": 40}, crop_size=SQUARE)
    return transformers.Dinov2WithRegistersModel(config), cut


def dinov3() -> tuple[Any, Any]:
    config = transformers.DINOv3ViTConfig(**SIZES, **MLP, **VISION, num_register_tokens=4)
    return transformers.DINOv3ViTModel(config), transformers.DINOv3ViTImageProcessor(size=SQUARE)


def siglip() -> tuple[Any, Any]:
    text = {**SIZES, **MLP, "vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.SiglipConfig(text_config=text, vision_config={**SIZES, **MLP, **VISION})
    return transformers.SiglipModel(config), transformers.SiglipImageProcessor(size=SQUARE)


def vit() -> tuple[Any, Any]:
    config = transformers.ViTConfig(**SIZES, **MLP, **VISION)
    return transformers.ViTForImageClassification(config), transformers.ViTImageProcessor(size=SQUARE)


def resnet() -> tuple[Any, Any]:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, WIDTH], depths=[1, 1], layer_type="basic", downsample_in_first_stage=False
    )
    return transformers.ResNetModel(config), transformers.ViTImageProcessor(size=SQUARE)


KINDS = {"dinov2": (dinov2, 5), "dinov3": (dinov3, 5), "siglip": (siglip, 0), "vit": (vit, 1), "resnet": (resnet, None)}


def saved(kind: str, folder: Path) -> Path:
    torch.manual_seed(0)
    for each in KINDS[kind][0]():
        each.save_pretrained(folder)
    return folder


def pictures(height: int = SIDE, width: int = SIDE) -> Tensor:
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_hugging_face_model_gives_its_own_patches_of_its_own_pixels(tmp_path: Path, kind: str) -> None:
    folder, first = saved(kind, tmp_path), KINDS[kind][1]
    encoder = load(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = processor(images=list(pictures()), return_tensors="pt", do_resize=False)["pixel_values"]
    whole = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        found = getattr(whole, "vision_model", whole)(pixel_values=pixels).last_hidden_state
    expected = found if first is None else found[:, first:].mT.unflatten(2, (SIDE // PATCH, SIDE // PATCH))
    assert encoder.channels == WIDTH
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    torch.testing.assert_close(encoder(pictures() / 127.5 - 1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_a_timm_model_gives_its_own_patches_of_its_own_pixels(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    import timm

    model = timm.create_model(name, pretrained=False).eval()
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    encoder = load(tmp_path)
    given = timm.data.resolve_model_data_config(model)
    side = given["input_size"][-1]
    mean, deviation = (torch.tensor(given[key]).view(3, 1, 1) for key in ("mean", "std"))
    images = pictures(side, side)
    with torch.no_grad():
        found = model.forward_features((images / 255 - mean) / deviation)
    if found.ndim == 3:
        grid = model.patch_embed.grid_size
        found = found[:, model.num_prefix_tokens :].mT.unflatten(2, grid)
    torch.testing.assert_close(encoder(images / 127.5 - 1), found, rtol=1e-4, atol=1e-5)


def test_a_picture_is_seen_whole_whatever_its_shape_and_mirrored_where_it_is_mirrored(tmp_path: Path) -> None:
    class Pixels(torch.nn.Module):
        """Features that are the pixels, four by four."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.avg_pool2d(x, 8)

    wanted = patch_encoder.Preprocessing((SIDE, SIDE), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")
    encoder = patch_encoder.PatchEncoder(Pixels(), wanted, lambda model, x: model(x))
    wide = torch.linspace(-1, 1, 64).expand(1, 3, 48, 64)
    found = on_grid(encoder(wide), 6, 8)
    middles = torch.linspace(-1, 1, 64).view(8, 8).mean(1)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found[0, 0, :, 1:7].float(), middles[1:7].expand(6, 6), atol=0.02, rtol=0)
    torch.testing.assert_close(on_grid(encoder(wide.flip(-1)), 6, 8), found.flip(-1))


def test_features_on_the_grid_already_are_rounded_alone() -> None:
    features = torch.randn(2, 3, 4, 5)
    assert torch.equal(on_grid(features, 4, 5), features.bfloat16())


def test_a_model_is_known_by_its_first_layer_whoever_has_loaded_it(tmp_path: Path) -> None:
    from fluxflow_exp.evaluation import features

    one, other = small_timm(tmp_path / "one"), small_timm(tmp_path / "other", seed=1)
    assert fingerprint(load(one).model) == fingerprint(features.load(str(one)).model)
    assert fingerprint(load(one).model) != fingerprint(load(other).model)


def test_random_numbers_are_left_alone(tmp_path: Path) -> None:
    folder = small_timm(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load(folder)
    assert torch.equal(torch.rand(3), expected)


def lack(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "layer" in name))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def other_sizes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 2 * WIDTH}))


def without_size(folder: Path) -> None:
    for file in folder.glob("preprocessor*"):
        values = json.loads(file.read_text())
        file.write_text(json.dumps({**values, "size": {"max_height": 3, "max_width": 3}}))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda folder: shutil.rmtree(folder), "there is no folder"),
        (lambda folder: (folder / "config.json").unlink(), r"has no config\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{}"), "names no model"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), r"has no preprocessor_config\.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no weights"), "gives no patch features"),
        (lack, "its weights lack"),
        (other_sizes, "gives no patch features"),
        (without_size, "names no size"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_in_one_line(tmp_path: Path, fault: Any, words: str) -> None:
    folder = saved("vit", tmp_path / "model")
    fault(folder)
    with pytest.raises(UserError, match=words) as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_a_model_of_text_and_one_without_a_map_are_refused(tmp_path: Path) -> None:
    bert = transformers.BertModel(transformers.BertConfig(**SIZES, **MLP, vocab_size=20))
    for each in (bert, vit()[1]):
        each.save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match=r"bert gives no patch features: .*It must hold an image model"):
        load(tmp_path / "bert")
    torch.manual_seed(0)
    model, processor = resnet()
    model.save_pretrained(tmp_path / "point")
    processor.size = {"height": 4, "width": 4}
    processor.save_pretrained(tmp_path / "point")
    with pytest.raises(UserError, match="gives no map of features"):
        load(tmp_path / "point")


def test_a_library_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small_timm(tmp_path)
    monkeypatch.setattr(patch_encoder, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'of timm, which is not installed: pip install "fluxflow-exp\[eval\]"'):
        load(folder)
