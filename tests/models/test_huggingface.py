"""A pretrained encoder: weights untouched, padding masked, rebuilt from its own tensors."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fluxflow_exp.config.published import ENCODER
from fluxflow_exp.models import weights
from fluxflow_exp.models.facts import Facts
from fluxflow_exp.models.huggingface import HuggingFaceTextEncoder
from tests.helpers.trainers import build

transformers = pytest.importorskip("transformers")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "circle", "blue", "square"]


@pytest.fixture(scope="module", params=["bert", "t5"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    path = tmp_path_factory.mktemp(request.param)
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]").save_pretrained(path)
    torch.manual_seed(0)
    if request.param == "bert":
        config = transformers.BertConfig(
            vocab_size=9, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
        )
        transformers.BertModel(config).save_pretrained(path)
    else:
        config = transformers.T5Config(vocab_size=9, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        transformers.T5Model(config).save_pretrained(path)
    return path


def test_published_weights_stay_as_they_are_and_frozen(folder: Path) -> None:
    encoder = HuggingFaceTextEncoder(name=str(folder))
    published = load_file(folder / "model.safetensors")
    mine = encoder.model.state_dict()
    shared = [name for name in mine if name in published or f"encoder.{name}" in published]
    assert len(shared) > 10
    for name in shared:
        assert torch.equal(mine[name], published.get(name, published.get(f"encoder.{name}")))
    assert not any(p.requires_grad for p in encoder.parameters())
    encoder.train()
    assert not encoder.training


def test_unfrozen_it_is_trained(folder: Path, tmp_path: Path) -> None:
    chosen = ["model/text_encoder=huggingface", f"model.text_encoder.name={folder}", "model.text_dim=16"]
    for unfreeze, players in (("[]", {"flow"}), ("[text_encoder]", {"flow", "text_encoder"})):
        trainer, batch = build(tmp_path, "flow", *chosen, f"stage.steps.flow.unfreeze={unfreeze}")
        assert set(trainer.players) == players
        before = {n: p.clone() for n, p in trainer.text_encoder.named_parameters()}
        trainer.update(batch)
        moved = any(not torch.equal(p, before[n]) for n, p in trainer.text_encoder.named_parameters())
        assert moved == (unfreeze != "[]")
        assert not trainer.text_encoder.model.training


def test_padding_is_masked(folder: Path) -> None:
    encoder = HuggingFaceTextEncoder(name=str(folder))
    alone, padded = encoder(["a red circle"]), encoder(["a red circle", "a red circle a blue square"])
    assert alone.mask.sum() == 5
    assert padded.mask.sum(1).tolist() == [5, 8]
    torch.testing.assert_close(padded.tokens[0, :5], alone.tokens[0], rtol=1e-4, atol=1e-5)
    assert encoder([""]).mask.sum() == 2


def test_its_state_rebuilds_it_without_files(folder: Path) -> None:
    first = HuggingFaceTextEncoder(name=str(folder))
    state = first.state_dict()
    assets = {name: state[name] for name in ("config_json", "tokenizer_json")}
    second = HuggingFaceTextEncoder(name="/gone", assets=assets)
    second.load_state_dict(state)
    torch.testing.assert_close(second(["a blue square"]).tokens, first(["a blue square"]).tokens)


def test_a_file_of_the_encoder_of_a_model_with_a_decoder_is_loaded(folder: Path, tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=9, d_model=16, d_kv=8, d_ff=32, num_layers=6, num_heads=2)
    transformers.T5Model(config).save_pretrained(tmp_path / "t5")
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "t5")
    first = HuggingFaceTextEncoder(name=str(tmp_path / "t5"))
    node = {"_target_": ENCODER, "name": "/gone"}
    facts: Facts = {
        "index": 1, "kind": "ema", "model": {"text_encoder": node}, "trained": {"text_encoder": "flow"},
        "text_encoder": "embed", "img_size": 32, "downscale": 8, "flow": None,
    }  # fmt: skip
    path = tmp_path / "flow.safetensors"
    weights.publish(path, {"text_encoder": first.state_dict()}, facts)
    second = weights.load_part(path, "text_encoder", kind="ema")
    torch.testing.assert_close(second(["a blue square"]).tokens, first(["a blue square"]).tokens)


def test_a_file_without_what_builds_its_encoder_has_none_fetched(tmp_path: Path) -> None:
    facts: Facts = {
        "index": 1, "kind": "ema", "model": {"text_encoder": {"_target_": ENCODER, "name": "someone/absent"}},
        "trained": {"text_encoder": "flow"}, "text_encoder": "embed", "img_size": 32, "downscale": 8, "flow": None,
    }  # fmt: skip
    weights.publish(tmp_path / "flow.safetensors", {"text_encoder": {"x": torch.zeros(1)}}, facts)
    with pytest.raises(ValueError, match="a file has nothing fetched"):
        weights.load_part(tmp_path / "flow.safetensors", "text_encoder", kind="ema")


def test_missing_and_offline_says_how_to_fetch_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match=r"(?s)'someone/absent' is not on this machine, and HF_HUB_.*from_pretrained.*FOLDER"
    ):
        HuggingFaceTextEncoder(name="someone/absent")


def test_its_outline_has_shapes_and_counts_tokens(folder: Path) -> None:
    target = f"{HuggingFaceTextEncoder.__module__}.HuggingFaceTextEncoder"
    outline = weights.outline({"_target_": target, "name": str(folder), "max_length": 4})
    whole = HuggingFaceTextEncoder(name=str(folder))
    assert {n: p.shape for n, p in outline.named_parameters()} == {n: p.shape for n, p in whole.named_parameters()}
    assert all(parameter.is_meta for parameter in outline.parameters())
    assert outline.lengths(["a red circle", "a"]) == [5, 3]
